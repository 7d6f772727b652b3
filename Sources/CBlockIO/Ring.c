// io_uring by hand: a ring that waits for completions and for other threads in one call.
#define _GNU_SOURCE
#include "CBlockIO.h"

#ifdef __linux__

#include <errno.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// Submission entries are plain memory until the kernel is told of them by the tail; completions are
// the kernel's until it has moved theirs. Both sides see the bytes before the index: release, acquire.
struct blockio_ring {
    int fd;
    void *rings;
    size_t rings_size;
    struct io_uring_sqe *entries;
    size_t entries_size;
    _Atomic unsigned *submission_head;
    _Atomic unsigned *submission_tail;
    _Atomic unsigned *submission_flags;
    unsigned submission_count;
    unsigned unsubmitted;
    _Atomic unsigned *completion_head;
    _Atomic unsigned *completion_tail;
    unsigned completion_mask;
    struct io_uring_cqe *completions;
};

static int set_up(unsigned entries, struct io_uring_params *params) {
    // Completions are put into the ring when this thread enters the kernel for them, and don't
    // interrupt it otherwise.
    memset(params, 0, sizeof *params);
    params->flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN
                    | IORING_SETUP_TASKRUN_FLAG;
    int fd = (int)syscall(SYS_io_uring_setup, entries, params);
    if (fd >= 0 || errno != EINVAL) return fd < 0 ? -errno : fd;
    // Linux 6.0.
    memset(params, 0, sizeof *params);
    params->flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN
                    | IORING_SETUP_TASKRUN_FLAG;
    fd = (int)syscall(SYS_io_uring_setup, entries, params);
    return fd < 0 ? -errno : fd;
}

static void *map(int fd, size_t bytes, off_t offset) {
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
}

int blockio_ring_create(uint32_t entries, blockio_ring **result) {
    struct io_uring_params params;
    int fd = set_up(entries, &params);
    if (fd < 0) return fd;
    unsigned needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP;
    if ((params.features & needed) != needed) {
        close(fd);
        return -ENOSYS;
    }
    blockio_ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL) {
        close(fd);
        return -ENOMEM;
    }
    ring->fd = fd;
    size_t submissions = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t completions = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = submissions > completions ? submissions : completions;
    ring->entries_size = params.sq_entries * sizeof(struct io_uring_sqe);
    ring->rings = map(fd, ring->rings_size, IORING_OFF_SQ_RING);
    ring->entries = ring->rings == MAP_FAILED
                        ? MAP_FAILED
                        : map(fd, ring->entries_size, IORING_OFF_SQES);
    if (ring->entries == MAP_FAILED) {
        int error = errno;
        blockio_ring_destroy(ring);
        return -error;
    }
    char *base = ring->rings;
    ring->submission_head = (_Atomic unsigned *)(base + params.sq_off.head);
    ring->submission_tail = (_Atomic unsigned *)(base + params.sq_off.tail);
    ring->submission_flags = (_Atomic unsigned *)(base + params.sq_off.flags);
    ring->submission_count = params.sq_entries;
    ring->completion_head = (_Atomic unsigned *)(base + params.cq_off.head);
    ring->completion_tail = (_Atomic unsigned *)(base + params.cq_off.tail);
    ring->completion_mask = params.cq_entries - 1;
    ring->completions = (struct io_uring_cqe *)(base + params.cq_off.cqes);
    unsigned *array = (unsigned *)(base + params.sq_off.array);
    for (unsigned index = 0; index < params.sq_entries; index++) array[index] = index;
    *result = ring;
    return 0;
}

void blockio_ring_destroy(blockio_ring *ring) {
    if (ring->entries != MAP_FAILED) munmap(ring->entries, ring->entries_size);
    if (ring->rings != MAP_FAILED) munmap(ring->rings, ring->rings_size);
    close(ring->fd);
    free(ring);
}

// A cleared entry, NULL when all are taken.
static struct io_uring_sqe *next_entry(blockio_ring *ring) {
    unsigned head = atomic_load_explicit(ring->submission_head, memory_order_acquire);
    unsigned tail = atomic_load_explicit(ring->submission_tail, memory_order_relaxed);
    if (tail - head == ring->submission_count) return NULL;
    struct io_uring_sqe *entry = &ring->entries[tail & (ring->submission_count - 1)];
    memset(entry, 0, sizeof *entry);
    return entry;
}

static void push_entry(blockio_ring *ring) {
    unsigned tail = atomic_load_explicit(ring->submission_tail, memory_order_relaxed);
    atomic_store_explicit(ring->submission_tail, tail + 1, memory_order_release);
    ring->unsubmitted++;
}

bool blockio_ring_transfer(blockio_ring *ring, blockio_direction direction, int fd, void *buffer,
                           uint32_t bytes, uint64_t offset, uint64_t context) {
    struct io_uring_sqe *entry = next_entry(ring);
    if (entry == NULL) return false;
    entry->opcode = direction == BLOCKIO_READ ? IORING_OP_READ : IORING_OP_WRITE;
    entry->fd = fd;
    entry->addr = (uint64_t)(uintptr_t)buffer;
    entry->len = bytes;
    entry->off = offset;
    entry->rw_flags = direction == BLOCKIO_WRITE_DURABLE ? RWF_DSYNC : 0;
    entry->user_data = context;
    push_entry(ring);
    return true;
}

bool blockio_ring_watch(blockio_ring *ring, int fd, uint64_t context) {
    struct io_uring_sqe *entry = next_entry(ring);
    if (entry == NULL) return false;
    entry->opcode = IORING_OP_POLL_ADD;
    entry->fd = fd;
    entry->len = IORING_POLL_ADD_MULTI;
    uint32_t events = POLLIN;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16 | events >> 16;
#endif
    entry->poll32_events = events;
    entry->user_data = context;
    push_entry(ring);
    return true;
}

int blockio_ring_signal(blockio_ring *ring, int event) {
    long done = syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_EVENTFD, &event, 1);
    return done < 0 ? -errno : 0;
}

bool blockio_ring_wants_to_enter(blockio_ring *ring) {
    unsigned flags = atomic_load_explicit(ring->submission_flags, memory_order_relaxed);
    return ring->unsubmitted > 0 || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

int blockio_ring_enter(blockio_ring *ring, bool waits, int64_t nanoseconds) {
    struct __kernel_timespec limit = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    struct io_uring_getevents_arg argument = {
        .ts = nanoseconds < 0 ? 0 : (uint64_t)(uintptr_t)&limit};
    long entered = syscall(SYS_io_uring_enter, ring->fd, ring->unsubmitted, waits ? 1 : 0,
                           IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
                           sizeof argument);
    if (entered >= 0) {
        ring->unsubmitted -= (unsigned)entered;
        return 0;
    }
    switch (errno) {
    // Woken by a signal, the time is over, no memory or no room just now: all is well or will be.
    case EINTR: case ETIME: case EAGAIN: case EBUSY: return 0;
    default: return -errno;
    }
}

bool blockio_ring_complete(blockio_ring *ring, blockio_completion *completion) {
    unsigned head = atomic_load_explicit(ring->completion_head, memory_order_relaxed);
    unsigned tail = atomic_load_explicit(ring->completion_tail, memory_order_acquire);
    if (head == tail) return false;
    const struct io_uring_cqe *entry = &ring->completions[head & ring->completion_mask];
    completion->context = entry->user_data;
    completion->result = entry->res;
    completion->goes_on = (entry->flags & IORING_CQE_F_MORE) != 0;
    atomic_store_explicit(ring->completion_head, head + 1, memory_order_release);
    return true;
}

#endif
