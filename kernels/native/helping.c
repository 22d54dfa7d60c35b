/* Parts of an operation, computed by several threads at once.

   The threads are Python's. Each lends itself by calling `help`, and stays in it, without Python, while parts come soon
   one after another: to wake a thread, and to hand Python's lock from one to another, takes longer than a part of an
   operation on one image. A thread's place goes through these states, moved on by who shares out (>) or who helps (*):

       FREE  >  CLAIMED  >  GIVEN  *  TAKEN  *  DONE  >  FREE
                              >  CLAIMED  >  FREE    where nobody took it until the rest was done: the sharer does it

   Nobody waits for a thread that has to be woken. */
#define TARGET
#include "helping.h"

#include <sched.h>
#include <time.h>

enum { LOOKS = 64 }; /* before others may have the processor */

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

/* Compute what is given at a place, until nothing was for so many nanoseconds. */
EXPORT void help(struct place *place, int64_t patience) {
    __atomic_store_n(&place->awake, 1, __ATOMIC_RELEASE);
    for (int64_t end = nanoseconds() + patience; nanoseconds() < end; sched_yield())
        for (int i = 0; i < LOOKS; i++, pause_a_little())
            if (state_of(place) == GIVEN && move(place, GIVEN, TAKEN)) {
                place->result = place->compute(place->job, place->begin, place->end);
                set(place, DONE);
                end = nanoseconds() + patience;
            }
    __atomic_store_n(&place->awake, 0, __ATOMIC_RELEASE);
}

/* Compute a job's parts 0 to `length`, in as many ranges as there are places that nobody else uses, and one more.
   Returns 0, or what the last range returned that returned something else. */
EXPORT int share(struct place *const *places, count others, part *compute, const void *job, count length) {
    struct place *mine[MOST];
    count n = 0;
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
    return result;
}
