/* What an operation is shared out with: its parts, and the places of the threads that compute them. */
#pragma once

#include "common.h"

/* Compute a job's parts from `begin` up to `end`: panels of outputs, heads, rows of a map or of a LayerNorm. Returns 0, or -1 if there is
   no room. */
typedef int part(const void *job, count begin, count end);

enum { FREE, CLAIMED, GIVEN, TAKEN, DONE }; /* states; helping.c has them in a picture */
enum { MOST = 1024 };                       /* threads, or processors */

/* The place of a helping thread. `awake` says whether it is in `help`, so that it need not be woken. */
struct place {
    part *compute;
    const void *job;
    count begin, end;
    int result, state, awake;
};
