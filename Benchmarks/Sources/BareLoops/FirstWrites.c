#define _GNU_SOURCE
#include "Support.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* The list of exceptions is written in blocks of this size, 16 bytes each. */
enum { BLOCK = 4096, ENTRIES = BLOCK / 16 };

typedef struct {
  const bare_first_writes *work;
  uint8_t *chunk;
  pthread_barrier_t begin, end;
  uint64_t number; /* of the write under way; as many as there are: no more come */
  _Atomic int error;
} team;

typedef struct {
  team *team;
  int cow;
  uint8_t *block;
} store;

static int whole(ssize_t moved, size_t length) {
  return moved == (ssize_t)length ? 0 : moved < 0 ? errno : EIO;
}

static int write_chunk(const store *store) {
  const bare_first_writes *work = store->team->work;
  off_t place = (off_t)((2 + store->team->number) * work->chunk);
  return whole(pwrite(store->cow, store->team->chunk, work->chunk, place), work->chunk);
}

static int flush(const store *store) { return fdatasync(store->cow) == 0 ? 0 : errno; }

static int write_entry(const store *store) {
  const bare_first_writes *work = store->team->work;
  uint64_t number = store->team->number;
  if (number % ENTRIES == 0) memset(store->block, 0, BLOCK);
  uint64_t entry[2] = {work->order[number], 2 + number};
  memcpy(store->block + number % ENTRIES * sizeof entry, entry, sizeof entry);
  struct iovec vector = {store->block, BLOCK};
  off_t place = (off_t)(work->chunk + number / ENTRIES * BLOCK);
  return whole(pwritev2(store->cow, &vector, 1, place, RWF_DSYNC), BLOCK);
}

static void note(team *team, int error) {
  if (error != 0) team->error = error;
}

static void *serve(void *argument) {
  const store *store = argument;
  team *team = store->team;
  for (;;) {
    pthread_barrier_wait(&team->begin);
    if (team->number == team->work->count) return NULL;
    int error = write_chunk(store);
    if (error == 0) error = flush(store);
    if (error == 0) error = write_entry(store);
    note(team, error);
    pthread_barrier_wait(&team->end);
  }
}

/* One step after the other for all stores, as one thread does it best. */
static void serve_all(team *team, store *stores) {
  int (*const steps[])(const store *) = {write_chunk, flush, write_entry};
  for (unsigned step = 0; step < 3; step += 1) {
    for (unsigned index = 0; index < team->work->cow_count; index += 1) {
      note(team, steps[step](&stores[index]));
    }
  }
}

static void run(team *team, store *stores) {
  const bare_first_writes *work = team->work;
  for (; team->number < work->count && team->error == 0; team->number += 1) {
    off_t place = (off_t)(work->order[team->number] * work->chunk);
    note(team, whole(pread(work->origin, team->chunk, work->chunk, place), work->chunk));
    if (work->thread_per_cow) {
      pthread_barrier_wait(&team->begin);
      pthread_barrier_wait(&team->end);
    } else {
      serve_all(team, stores);
    }
    note(team, whole(pwrite(work->origin, team->chunk, BLOCK, place + BLOCK), BLOCK));
  }
}

bare_result bare_first_writes_run(const bare_first_writes *work) {
  if (work->cow_count == 0 || work->cow_count > BARE_MAX_COWS
      || work->chunk % BLOCK != 0 || work->chunk < 2 * BLOCK
      || work->count > work->chunk / 16) {
    return (bare_result){0, EINVAL};
  }
  team team = {.work = work};
  bare_memory memory;
  int error = bare_memory_make(&memory, work->chunk + (size_t)work->cow_count * BLOCK);
  if (error != 0) return (bare_result){0, error};
  team.chunk = memory.bytes;
  store stores[BARE_MAX_COWS];
  pthread_t threads[BARE_MAX_COWS];
  unsigned started = 0;
  pthread_barrier_init(&team.begin, NULL, work->cow_count + 1);
  pthread_barrier_init(&team.end, NULL, work->cow_count + 1);
  for (unsigned index = 0; index < work->cow_count; index += 1) {
    stores[index] = (store){
        &team, work->cows[index], memory.bytes + work->chunk + (size_t)index * BLOCK};
    if (!work->thread_per_cow) continue;
    /* With fewer threads the barriers would never open. */
    if (pthread_create(&threads[index], NULL, serve, &stores[index]) != 0) abort();
    started += 1;
  }
  uint64_t start = bare_now();
  run(&team, stores);
  uint64_t elapsed = bare_now() - start;
  if (started > 0) {
    team.number = work->count;
    pthread_barrier_wait(&team.begin);
    for (unsigned index = 0; index < started; index += 1) pthread_join(threads[index], NULL);
  }
  pthread_barrier_destroy(&team.begin);
  pthread_barrier_destroy(&team.end);
  bare_memory_free(&memory);
  return (bare_result){elapsed, team.error};
}
