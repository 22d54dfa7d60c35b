/* Threads that help and threads that share out, all at once, for a compiler's ThreadSanitizer to watch. */
#define TARGET
#include "helping.h"

#include <pthread.h>
#include <stdio.h>

void help(struct place *place, int64_t patience, int *occupied);
int share(struct place *const *places, count others, part *compute, const void *job, count length, int *occupied,
          int woken);

enum { HELPERS = 3, SHARERS = 2, ROUNDS = 20000, LENGTH = 40 };

static struct place places[HELPERS];
static int done, occupied[MOST];

static void *lend(void *place) {
    while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE)) help(place, 20000, occupied);
    return NULL;
}

/* A job is an array: each part adds 1 to a number. */
static int add(const void *job, count begin, count end) {
    int *numbers = *(int *const *)job;
    for (count i = begin; i < end; i++) numbers[i]++;
    return begin <= 17 && 17 < end && numbers[17] % 5 == 0 ? -1 : 0;
}

static void *share_out(void *unused) {
    (void)unused;
    struct place *all[HELPERS];
    for (int i = 0; i < HELPERS; i++) all[i] = places + i;
    int numbers[LENGTH] = {0}, *job = numbers;
    for (int round = 1; round <= ROUNDS; round++) {
        int failed = share(all, HELPERS, add, &job, LENGTH, occupied, round % 100 == 0);
        if (failed != (round % 5 ? 0 : -1)) return "a wrong result";
        for (int i = 0; i < LENGTH; i++)
            if (numbers[i] != round) return "a part left out, or computed twice";
    }
    return NULL;
}

int main(void) {
    pthread_t helpers[HELPERS], sharers[SHARERS];
    for (int i = 0; i < HELPERS; i++) pthread_create(helpers + i, NULL, lend, places + i);
    for (int i = 0; i < SHARERS; i++) pthread_create(sharers + i, NULL, share_out, NULL);
    void *wrong = NULL, *found;
    for (int i = 0; i < SHARERS; i++) {
        pthread_join(sharers[i], &found);
        if (found) wrong = found;
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < HELPERS; i++) pthread_join(helpers[i], NULL);
    for (int i = 0; i < MOST; i++)
        if (occupied[i]) wrong = "a processor that somebody is still counted at";
    if (wrong) puts(wrong);
    return wrong != NULL;
}
