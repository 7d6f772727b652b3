#define _GNU_SOURCE
#include "Support.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { PIPE_BYTES = 1024 * 1024 };

struct worker;

/* Moves one block to all destinations; an errno, 0 when done. */
typedef int block_mover(struct worker *worker, uint64_t offset, size_t length);

typedef struct {
  const bare_copy *copy;
  block_mover *mover;
  _Atomic uint64_t next_block;
  _Atomic int error;
} team;

typedef struct worker {
  team *team;
  uint8_t *buffer;
  int pipe[2];
} worker;

static int transfer_error(ssize_t moved) { return moved < 0 ? errno : EIO; }

static int move_through_buffer(worker *worker, uint64_t offset, size_t length) {
  const bare_copy *copy = worker->team->copy;
  ssize_t moved = pread(copy->source, worker->buffer, length, (off_t)offset);
  if (moved != (ssize_t)length) return transfer_error(moved);
  for (unsigned index = 0; index < copy->destination_count; index += 1) {
    moved = pwrite(copy->destinations[index], worker->buffer, length, (off_t)offset);
    if (moved != (ssize_t)length) return transfer_error(moved);
  }
  return 0;
}

static int move_by_kernel(worker *worker, uint64_t offset, size_t length) {
  const bare_copy *copy = worker->team->copy;
  for (unsigned index = 0; index < copy->destination_count; index += 1) {
    off_t from = (off_t)offset;
    off_t to = (off_t)offset;
    size_t rest = length;
    while (rest > 0) {
      ssize_t moved =
          copy_file_range(copy->source, &from, copy->destinations[index], &to, rest, 0);
      if (moved <= 0) return transfer_error(moved);
      rest -= (size_t)moved;
    }
  }
  return 0;
}

static int move_through_pipe(worker *worker, uint64_t offset, size_t length) {
  const bare_copy *copy = worker->team->copy;
  off_t from = (off_t)offset;
  off_t to = (off_t)offset;
  size_t rest = length;
  while (rest > 0) {
    ssize_t filled = splice(copy->source, &from, worker->pipe[1], NULL, rest, SPLICE_F_MOVE);
    if (filled <= 0) return transfer_error(filled);
    rest -= (size_t)filled;
    while (filled > 0) {
      ssize_t moved = splice(
          worker->pipe[0], NULL, copy->destinations[0], &to, (size_t)filled, SPLICE_F_MOVE);
      if (moved <= 0) return transfer_error(moved);
      filled -= moved;
    }
  }
  return 0;
}

static void *work(void *context) {
  worker *worker = context;
  team *team = worker->team;
  uint64_t count = bare_block_count(team->copy);
  while (atomic_load_explicit(&team->error, memory_order_relaxed) == 0) {
    uint64_t block = atomic_fetch_add_explicit(&team->next_block, 1, memory_order_relaxed);
    if (block >= count) break;
    uint64_t offset;
    size_t length;
    bare_block_at(team->copy, block, &offset, &length);
    int failure = team->mover(worker, offset, length);
    if (failure != 0) atomic_store(&team->error, failure);
  }
  return NULL;
}

/* The calling thread is the first of the team. */
static uint64_t run_team(team *team, worker *workers, unsigned threads) {
  pthread_t others[BARE_MAX_THREADS];
  unsigned started = 1;
  uint64_t start = bare_now();
  while (started < threads) {
    int failure = pthread_create(&others[started], NULL, work, &workers[started]);
    if (failure != 0) {
      atomic_store(&team->error, failure);
      break;
    }
    started += 1;
  }
  work(&workers[0]);
  for (unsigned index = 1; index < started; index += 1) pthread_join(others[index], NULL);
  return bare_now() - start;
}

static bare_result run(
    const bare_copy *copy, unsigned threads, block_mover *mover, bare_memory *memory,
    const int pipe[2]) {
  team team = {.copy = copy, .mover = mover};
  worker workers[BARE_MAX_THREADS];
  for (unsigned index = 0; index < threads; index += 1) {
    workers[index] = (worker){.team = &team, .pipe = {pipe[0], pipe[1]}};
    if (memory != NULL) workers[index].buffer = memory->bytes + index * copy->block;
  }
  uint64_t elapsed = run_team(&team, workers, threads);
  return (bare_result){elapsed, atomic_load(&team.error)};
}

static const int no_pipe[2] = {-1, -1};

static bool is_valid(const bare_copy *copy, unsigned threads) {
  return bare_copy_is_valid(copy) && threads > 0 && threads <= BARE_MAX_THREADS;
}

bare_result bare_thread_copy(const bare_copy *copy, unsigned threads) {
  if (!is_valid(copy, threads)) return (bare_result){0, EINVAL};
  bare_memory memory = {0};
  int failure = bare_memory_make(&memory, threads * copy->block);
  if (failure != 0) return (bare_result){0, failure};
  bare_result result = run(copy, threads, move_through_buffer, &memory, no_pipe);
  bare_memory_free(&memory);
  return result;
}

bare_result bare_copy_file_range(const bare_copy *copy, unsigned threads) {
  if (!is_valid(copy, threads)) return (bare_result){0, EINVAL};
  return run(copy, threads, move_by_kernel, NULL, no_pipe);
}

bare_result bare_splice(const bare_copy *copy) {
  if (!is_valid(copy, 1) || copy->destination_count != 1) return (bare_result){0, EINVAL};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return (bare_result){0, errno};
  /* A small pipe makes a slow copy, not a wrong one: what the system refuses is ignored. */
  fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
  bare_result result = run(copy, 1, move_through_pipe, NULL, ends);
  close(ends[0]);
  close(ends[1]);
  return result;
}
