#define _GNU_SOURCE
#include "Support.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct {
  int descriptor;
  void *rings;
  size_t rings_size;
  struct io_uring_sqe *entries;
  size_t entries_size;
  _Atomic unsigned *submission_tail;
  unsigned submission_mask;
  unsigned prepared;
  _Atomic unsigned *completion_head;
  _Atomic unsigned *completion_tail;
  unsigned completion_mask;
  struct io_uring_cqe *completions;
} ring;

typedef struct {
  uint64_t offset;
  size_t length;
  unsigned writes_pending; /* 0 while the slot reads */
} slot;

typedef struct {
  const bare_copy *copy;
  bare_ring_options options;
  ring ring;
  bare_memory memory;
  slot *slots;
  uint64_t next_block;
  unsigned in_flight;
  int error;
} ring_copy;

static int ring_open(ring *ring, unsigned entries, bool deferred) {
  struct io_uring_params params;
  memset(&params, 0, sizeof params);
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_CLAMP;
  params.flags |= deferred ? IORING_SETUP_DEFER_TASKRUN : IORING_SETUP_COOP_TASKRUN;
  ring->descriptor = (int)syscall(SYS_io_uring_setup, entries, &params);
  if (ring->descriptor < 0) return errno;
  if (params.sq_entries < entries) return E2BIG;
  if (!(params.features & IORING_FEAT_SINGLE_MMAP)) return ENOTSUP;

  size_t submission_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  size_t completion_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  size_t rings_size = submission_size > completion_size ? submission_size : completion_size;
  void *rings = mmap(NULL, rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                     ring->descriptor, IORING_OFF_SQ_RING);
  if (rings == MAP_FAILED) return errno;
  ring->rings = rings;
  ring->rings_size = rings_size;

  size_t entries_size = params.sq_entries * sizeof(struct io_uring_sqe);
  void *mapped = mmap(NULL, entries_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                      ring->descriptor, IORING_OFF_SQES);
  if (mapped == MAP_FAILED) return errno;
  ring->entries = mapped;
  ring->entries_size = entries_size;

  uint8_t *base = rings;
  ring->submission_tail = (_Atomic unsigned *)(base + params.sq_off.tail);
  ring->submission_mask = *(unsigned *)(base + params.sq_off.ring_mask);
  ring->completion_head = (_Atomic unsigned *)(base + params.cq_off.head);
  ring->completion_tail = (_Atomic unsigned *)(base + params.cq_off.tail);
  ring->completion_mask = *(unsigned *)(base + params.cq_off.ring_mask);
  ring->completions = (struct io_uring_cqe *)(base + params.cq_off.cqes);
  unsigned *array = (unsigned *)(base + params.sq_off.array);
  for (unsigned index = 0; index < params.sq_entries; index += 1) array[index] = index;
  return 0;
}

static void ring_close(ring *ring) {
  if (ring->entries != NULL) munmap(ring->entries, ring->entries_size);
  if (ring->rings != NULL) munmap(ring->rings, ring->rings_size);
  if (ring->descriptor >= 0) close(ring->descriptor);
}

/* Room is certain: the queue has an entry for everything that can be in flight. */
static struct io_uring_sqe *ring_prepare(ring *ring) {
  unsigned tail = atomic_load_explicit(ring->submission_tail, memory_order_relaxed);
  struct io_uring_sqe *entry = &ring->entries[(tail + ring->prepared) & ring->submission_mask];
  ring->prepared += 1;
  memset(entry, 0, sizeof *entry);
  return entry;
}

static int ring_submit_and_wait(ring *ring) {
  unsigned tail = atomic_load_explicit(ring->submission_tail, memory_order_relaxed);
  atomic_store_explicit(
      ring->submission_tail, tail + ring->prepared, memory_order_release);
  unsigned unsubmitted = ring->prepared;
  ring->prepared = 0;
  for (;;) {
    long entered = syscall(SYS_io_uring_enter, ring->descriptor, unsubmitted, 1,
                           IORING_ENTER_GETEVENTS, NULL, 0);
    if (entered < 0 && errno != EINTR) return errno;
    if (entered >= 0) unsubmitted -= (unsigned)entered;
    if (entered >= 0 && unsubmitted == 0) return 0;
  }
}

static uint8_t *slot_bytes(ring_copy *run, unsigned index) {
  return run->memory.bytes + (size_t)index * run->copy->block;
}

/* `file` counts the copy's files: 0 the source, 1… the destinations. */
static void prepare_transfer(ring_copy *run, unsigned index, bool is_write, unsigned file) {
  struct io_uring_sqe *entry = ring_prepare(&run->ring);
  const slot *slot = &run->slots[index];
  if (run->options.registered) {
    entry->opcode = is_write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
    entry->flags = IOSQE_FIXED_FILE;
    entry->fd = (int)file;
  } else {
    entry->opcode = is_write ? IORING_OP_WRITE : IORING_OP_READ;
    entry->fd = file == 0 ? run->copy->source : run->copy->destinations[file - 1];
  }
  entry->addr = (uint64_t)(uintptr_t)slot_bytes(run, index);
  entry->len = (unsigned)slot->length;
  entry->off = slot->offset;
  entry->user_data = index;
  run->in_flight += 1;
}

static void start_next_block(ring_copy *run, unsigned index) {
  if (run->error != 0 || run->next_block == bare_block_count(run->copy)) return;
  slot *slot = &run->slots[index];
  bare_block_at(run->copy, run->next_block, &slot->offset, &slot->length);
  run->next_block += 1;
  prepare_transfer(run, index, false, 0);
}

static void complete(ring_copy *run, const struct io_uring_cqe *completion) {
  unsigned index = (unsigned)completion->user_data;
  slot *slot = &run->slots[index];
  run->in_flight -= 1;
  /* A short transfer of a whole file's block does not happen; if it does, it is an error. */
  if (completion->res < 0) run->error = -completion->res;
  else if ((size_t)completion->res != slot->length) run->error = EIO;
  if (run->error != 0) return;

  if (slot->writes_pending == 0) {
    slot->writes_pending = run->copy->destination_count;
    for (unsigned file = 1; file <= run->copy->destination_count; file += 1) {
      prepare_transfer(run, index, true, file);
    }
  } else {
    slot->writes_pending -= 1;
    if (slot->writes_pending == 0) start_next_block(run, index);
  }
}

static void run_loop(ring_copy *run) {
  for (unsigned index = 0; index < run->options.slots; index += 1) start_next_block(run, index);
  while (run->in_flight > 0) {
    int failure = ring_submit_and_wait(&run->ring);
    if (failure != 0) {
      run->error = failure;
      return;
    }
    unsigned head = atomic_load_explicit(run->ring.completion_head, memory_order_relaxed);
    unsigned tail = atomic_load_explicit(run->ring.completion_tail, memory_order_acquire);
    while (head != tail) {
      complete(run, &run->ring.completions[head & run->ring.completion_mask]);
      head += 1;
    }
    atomic_store_explicit(run->ring.completion_head, head, memory_order_release);
  }
}

static int register_all(ring_copy *run) {
  int descriptor = run->ring.descriptor;
  struct iovec buffers = {
      .iov_base = run->memory.bytes, .iov_len = run->options.slots * run->copy->block};
  if (syscall(SYS_io_uring_register, descriptor, IORING_REGISTER_BUFFERS, &buffers, 1) < 0) {
    return errno;
  }
  int files[1 + BARE_MAX_DESTINATIONS] = {run->copy->source};
  unsigned count = run->copy->destination_count;
  memcpy(&files[1], run->copy->destinations, count * sizeof(int));
  if (syscall(SYS_io_uring_register, descriptor, IORING_REGISTER_FILES, files, count + 1) < 0) {
    return errno;
  }
  return 0;
}

bare_result bare_ring_copy(const bare_copy *copy, bare_ring_options options) {
  ring_copy run = {.copy = copy, .options = options, .ring = {.descriptor = -1}};
  bare_result result = {0, 0};
  if (!bare_copy_is_valid(copy) || options.slots == 0) return (bare_result){0, EINVAL};

  run.slots = calloc(options.slots, sizeof(slot));
  if (run.slots == NULL) run.error = ENOMEM;
  if (run.error == 0) run.error = bare_memory_make(&run.memory, options.slots * copy->block);
  if (run.error == 0) {
    unsigned entries = options.slots * copy->destination_count;
    run.error = ring_open(&run.ring, entries, options.deferred);
  }
  if (run.error == 0 && options.registered) run.error = register_all(&run);
  if (run.error == 0) {
    uint64_t start = bare_now();
    run_loop(&run);
    result.elapsed_ns = bare_now() - start;
  }
  result.error = run.error;
  ring_close(&run.ring);
  bare_memory_free(&run.memory);
  free(run.slots);
  return result;
}
