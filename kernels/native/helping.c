/* Parts of an operation, computed by several threads at once.

   The threads are Python's. Each lends itself by calling `help`, and stays in it, without Python, while parts come soon
   one after another: to wake a thread, and to hand Python's lock from one to another, takes longer than a part of an
   operation on one image. A thread's place goes through these states, moved on by who shares out (>) or who helps (*):

       FREE  >  CLAIMED  >  GIVEN  *  TAKEN  *  DONE  >  FREE
                              >  CLAIMED  >  FREE    where nobody took it until the rest was done: the sharer does it

   Nobody waits for a thread that has to be woken.

   A system may wake a thread on the processor of whoever woke it, though another has nothing to do, and leave it there
   for longer than an image takes: Linux does so where there are few processors, and then two threads take as long as
   one. So threads that share count themselves where they compute, in `occupied` [MOST], a number for each processor; and
   whoever helps and comes to a processor that is taken goes to one that isn't. */
#define TARGET
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for what <sched.h> has of Linux */
#endif
#include "helping.h"

#include <sched.h>
#include <time.h>

enum {
    LOOKS = 64, /* before others may have the processor */
    MOVES = 2   /* to processors that nobody computes on, before a thread stays where it is */
};

static void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

/* Whether the state was `from`, and is `to` now. */
static int move(struct place *place, int from, int to) {
    return __atomic_compare_exchange_n(&place->state, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void set(struct place *place, int state) { __atomic_store_n(&place->state, state, __ATOMIC_RELEASE); }
static int state_of(struct place *place) { return __atomic_load_n(&place->state, __ATOMIC_ACQUIRE); }

static int processor(void) {
#ifdef __linux__
    int here = sched_getcpu();
    if (here < MOST) return here;
#endif
    return -1; /* unknown */
}

/* Be counted where this thread is. Returns the processor, or -1 where that isn't known. */
EXPORT int enter(int *occupied) {
    int here = processor();
    if (here >= 0) __atomic_add_fetch(occupied + here, 1, __ATOMIC_RELAXED);
    return here;
}

/* Be counted no more on the processor that `enter` or `occupy` returned. */
EXPORT void vacate(int *occupied, int where) {
    if (where >= 0) __atomic_sub_fetch(occupied + where, 1, __ATOMIC_RELAXED);
}

static int take(int *occupied, int where) {
    int nobody = 0;
    return __atomic_compare_exchange_n(occupied + where, &nobody, 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Go where nobody computes, if this thread may and isn't there already, and be counted there. The system can move it on
   from there as it likes; but what it may use later is at most what it may use now. Returns as `enter` does. */
EXPORT int occupy(int *occupied) {
    int here = processor();
    if (here < 0 || take(occupied, here)) return here;
#ifdef __linux__
    cpu_set_t allowed, one;
    if (!sched_getaffinity(0, sizeof allowed, &allowed))
        for (int i = 1; i < MOST; i++) {
            int there = (here + i) % MOST;
            if (!CPU_ISSET(there, &allowed) || !take(occupied, there)) continue;
            CPU_ZERO(&one);
            CPU_SET(there, &one);
            if (!sched_setaffinity(0, sizeof one, &one) && !sched_setaffinity(0, sizeof allowed, &allowed)) return there;
            vacate(occupied, there);
            break;
        }
#endif
    return enter(occupied);
}

/* Whether a thread that is counted somewhere is there still, and by itself. */
static int by_itself(const int *occupied, int where) {
    return where < 0 || (processor() == where && __atomic_load_n(occupied + where, __ATOMIC_RELAXED) == 1);
}

/* Compute what is given at a place, until nothing was for so many nanoseconds. */
EXPORT void help(struct place *place, int64_t patience, int *occupied) {
    __atomic_store_n(&place->awake, 1, __ATOMIC_RELEASE);
    int where = occupy(occupied), moves = 1;
    for (int64_t end = nanoseconds() + patience; nanoseconds() < end; sched_yield()) {
        if (moves < MOVES && !by_itself(occupied, where)) {
            vacate(occupied, where);
            where = occupy(occupied);
            moves++;
        }
        for (int i = 0; i < LOOKS; i++, pause_a_little())
            if (state_of(place) == GIVEN && move(place, GIVEN, TAKEN)) {
                place->result = place->compute(place->job, place->begin, place->end);
                set(place, DONE);
                end = nanoseconds() + patience;
            }
    }
    __atomic_store_n(&place->awake, 0, __ATOMIC_RELEASE);
    vacate(occupied, where);
}

/* Compute a job's parts 0 to `length`, in as many ranges as there are places that nobody else uses, and one more. Where
   threads were `woken` for it, those on this processor begin first, and go to another: the system may look only every
   10 ms who waits (CONFIG_HZ of Linux). Returns 0, or what the last range returned that returned something else. */
EXPORT int share(struct place *const *places, count others, part *compute, const void *job, count length,
                 int *occupied, int woken) {
    struct place *mine[MOST];
    count n = 0;
    int where = others ? enter(occupied) : -1;
    if (woken) sched_yield();
    for (count i = 0; i < others && n < smaller(MOST, length - 1); i++)
        if (move(places[i], FREE, CLAIMED)) mine[n++] = places[i];
    for (count i = 0; i < n; i++) {
        mine[i]->compute = compute, mine[i]->job = job;
        mine[i]->begin = length * (i + 1) / (n + 1), mine[i]->end = length * (i + 2) / (n + 1);
        set(mine[i], GIVEN);
    }
    int result = compute(job, 0, length / (n + 1));
    for (count i = n; i--;) { /* the last one first: it is the least likely to have been taken */
        if (move(mine[i], GIVEN, CLAIMED)) mine[i]->result = compute(job, mine[i]->begin, mine[i]->end);
        else
            for (count looks = 0; state_of(mine[i]) != DONE; looks++)
                if (looks % LOOKS) pause_a_little();
                else sched_yield();
        if (mine[i]->result) result = mine[i]->result;
        set(mine[i], FREE);
    }
    vacate(occupied, where);
    return result;
}
