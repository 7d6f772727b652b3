#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "CBlockIO.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#ifdef __linux__
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#else
#include <sys/disk.h>
#endif

void blockio_keep_freed_memory(size_t resting) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, (int)resting);
#else
    (void)resting;
#endif
}

static int result(int value) { return value < 0 ? -errno : value; }
static ssize_t transferred(ssize_t value) { return value < 0 ? -errno : value; }

#ifdef __linux__

int blockio_block_device_geometry(int fd, uint64_t *bytes, uint32_t *logical, uint32_t *physical,
                                  uint32_t *optimal, bool *read_only) {
    int logical_size = 512, is_read_only = 0;
    unsigned int physical_size = 512, optimal_size = 0;
    if (ioctl(fd, BLKGETSIZE64, bytes) < 0 || ioctl(fd, BLKSSZGET, &logical_size) < 0)
        return -errno;
    if (ioctl(fd, BLKPBSZGET, &physical_size) < 0) physical_size = (unsigned int)logical_size;
    (void)ioctl(fd, BLKIOOPT, &optimal_size);
    (void)ioctl(fd, BLKROGET, &is_read_only);
    *logical = (uint32_t)logical_size;
    *physical = physical_size;
    *optimal = optimal_size;
    *read_only = is_read_only != 0;
    return 0;
}

int blockio_write_zeroes(int fd, bool block_device, uint64_t offset, uint64_t bytes,
                         bool may_unmap) {
    int zero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (block_device && !may_unmap) {
        uint64_t range[2] = {offset, bytes};
        return result(ioctl(fd, BLKZEROOUT, range));
    }
    // On a block special PUNCH_HOLE is write-zeroes with leave to unmap.
    if (fallocate(fd, may_unmap ? punch : zero, (off_t)offset, (off_t)bytes) == 0) return 0;
    if (errno != EOPNOTSUPP) return -errno;
    if (may_unmap) return result(fallocate(fd, zero, (off_t)offset, (off_t)bytes));
    if (fallocate(fd, punch, (off_t)offset, (off_t)bytes) < 0) return -errno;
    // The space is wanted all the same (tmpfs has no ZERO_RANGE).
    return result(fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes));
}

int blockio_drop_cache(int fd) { return -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); }

int blockio_clone(int to, int from) { return result(ioctl(to, FICLONE, from)); }

int blockio_discard(int fd, bool block_device, uint64_t offset, uint64_t bytes) {
    if (block_device) {
        uint64_t range[2] = {offset, bytes};
        return result(ioctl(fd, BLKDISCARD, range));
    }
    return result(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                            (off_t)bytes));
}

int blockio_sync_data(int fd) { return result(fdatasync(fd)); }

int64_t blockio_size(int fd, bool block_device) {
    struct stat status;
    uint64_t bytes;
    if (block_device) return ioctl(fd, BLKGETSIZE64, &bytes) < 0 ? -errno : (int64_t)bytes;
    return fstat(fd, &status) < 0 ? -errno : status.st_size;
}

void blockio_direct_alignment(int fd, uint32_t *memory, uint32_t *offset) {
    // struct statx of kernel 6.1 on, whose last fields older C libraries don't name.
    struct {
        uint32_t mask;
        uint8_t other[0x98 - 4];
        uint32_t memory_alignment, offset_alignment;
        uint8_t spare[0x100 - 0xa0];
    } status = {0};
    const unsigned int direct_alignment = 0x2000;
    *memory = *offset = 0;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, direct_alignment, &status) < 0) return;
    if (!(status.mask & direct_alignment)) return;
    *memory = status.memory_alignment;
    *offset = status.offset_alignment;
}

int blockio_open_direct_flag(void) { return O_DIRECT; }
int blockio_set_uncached(int fd) { (void)fd; return 0; }

bool blockio_is_memory_file_system(int fd) {
    struct statfs status;
    if (fstatfs(fd, &status) < 0) return false;
    return status.f_type == 0x01021994 /* tmpfs */ || status.f_type == (long)0x858458f6 /* ramfs */;
}

// The kernel reports its own (huge) encoding of a device number.
static uint64_t decoded_device(uint64_t number) {
    return makedev((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
}

int blockio_loop_backing(int fd, struct blockio_loop_backing *backing) {
    struct loop_info64 info;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) return -errno;
    *backing = (struct blockio_loop_backing){
        .device = decoded_device(info.lo_device),
        .inode = info.lo_inode,
        .special_device = info.lo_rdevice == 0 ? 0 : decoded_device(info.lo_rdevice),
        .offset = info.lo_offset,
        .size_limit = info.lo_sizelimit,
    };
    return 0;
}

ssize_t blockio_pread_nowait(int fd, void *buffer, size_t bytes, uint64_t offset) {
    struct iovec piece = {buffer, bytes};
    return transferred(preadv2(fd, &piece, 1, (off_t)offset, RWF_NOWAIT));
}

ssize_t blockio_pwrite_nowait(int fd, const void *buffer, size_t bytes, uint64_t offset) {
    struct iovec piece = {(void *)buffer, bytes};
    return transferred(pwritev2(fd, &piece, 1, (off_t)offset, RWF_NOWAIT));
}

ssize_t blockio_pwrite_durable(int fd, const void *buffer, size_t bytes, uint64_t offset) {
    struct iovec piece = {(void *)buffer, bytes};
    return transferred(pwritev2(fd, &piece, 1, (off_t)offset, RWF_DSYNC));
}

int blockio_event_create(void) { return result(eventfd(0, EFD_CLOEXEC)); }

void blockio_event_signal(int fd) {
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

void blockio_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

static void prepare_map(void *base, size_t bytes) {
    (void)madvise(base, bytes, MADV_HUGEPAGE);
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
    // Where the kernel is older the pages come with the first use.
    (void)madvise(base, bytes, MADV_POPULATE_WRITE);
}

#else  // Darwin

int blockio_block_device_geometry(int fd, uint64_t *bytes, uint32_t *logical, uint32_t *physical,
                                  uint32_t *optimal, bool *read_only) {
    uint64_t count = 0;
    uint32_t writable = 1;
    if (ioctl(fd, DKIOCGETBLOCKSIZE, logical) < 0 || ioctl(fd, DKIOCGETBLOCKCOUNT, &count) < 0)
        return -errno;
    if (ioctl(fd, DKIOCGETPHYSICALBLOCKSIZE, physical) < 0) *physical = *logical;
    (void)ioctl(fd, DKIOCISWRITABLE, &writable);
    *bytes = count * *logical;
    *optimal = 0;
    *read_only = !writable;
    return 0;
}

int blockio_discard(int fd, bool block_device, uint64_t offset, uint64_t bytes) {
    if (block_device) return -ENOTSUP;
    struct fpunchhole hole = {.fp_offset = (off_t)offset, .fp_length = (off_t)bytes};
    return result(fcntl(fd, F_PUNCHHOLE, &hole));
}

int blockio_write_zeroes(int fd, bool block_device, uint64_t offset, uint64_t bytes,
                         bool may_unmap) {
    (void)may_unmap;
    return blockio_discard(fd, block_device, offset, bytes);
}

int blockio_sync_data(int fd) { return result(fcntl(fd, F_FULLFSYNC)); }
int64_t blockio_size(int fd, bool block_device) {
    struct stat status;
    uint64_t count = 0;
    uint32_t block = 0;
    if (!block_device) return fstat(fd, &status) < 0 ? -errno : status.st_size;
    if (ioctl(fd, DKIOCGETBLOCKSIZE, &block) < 0 || ioctl(fd, DKIOCGETBLOCKCOUNT, &count) < 0)
        return -errno;
    return (int64_t)(count * block);
}
void blockio_direct_alignment(int fd, uint32_t *memory, uint32_t *offset) {
    (void)fd;
    *memory = *offset = 0;
}
int blockio_drop_cache(int fd) { (void)fd; return 0; }
int blockio_clone(int to, int from) { (void)to; (void)from; return -ENOTSUP; }
int blockio_open_direct_flag(void) { return 0; }
int blockio_set_uncached(int fd) { return result(fcntl(fd, F_NOCACHE, 1)); }
bool blockio_is_memory_file_system(int fd) { (void)fd; return false; }
int blockio_loop_backing(int fd, struct blockio_loop_backing *backing) {
    (void)fd; (void)backing;
    return -ENOTSUP;
}
ssize_t blockio_pread_nowait(int fd, void *buffer, size_t bytes, uint64_t offset) {
    (void)fd; (void)buffer; (void)bytes; (void)offset;
    return -EAGAIN;
}
ssize_t blockio_pwrite_nowait(int fd, const void *buffer, size_t bytes, uint64_t offset) {
    (void)fd; (void)buffer; (void)bytes; (void)offset;
    return -EAGAIN;
}
ssize_t blockio_pwrite_durable(int fd, const void *buffer, size_t bytes, uint64_t offset) {
    ssize_t count = blockio_pwrite(fd, buffer, bytes, offset);
    if (count < 0) return count;
    int synced = blockio_sync_data(fd);
    return synced < 0 ? synced : count;
}
int blockio_event_create(void) { return -ENOTSUP; }
void blockio_event_signal(int fd) { (void)fd; }
void blockio_name_thread(const char *name) { pthread_setname_np(name); }
static void prepare_map(void *base, size_t bytes) { (void)base; (void)bytes; }

#endif

int blockio_extend(int fd, uint64_t bytes) {
    struct stat status;
    if (fstat(fd, &status) < 0) return -errno;
    if ((uint64_t)status.st_size >= bytes) return 0;
#ifdef __linux__
    // With the space for it, so that it doesn't turn out to be missing when it is written.
    off_t more = (off_t)bytes - status.st_size;
    if (fallocate(fd, 0, status.st_size, more) == 0) return 0;
    if (errno != EOPNOTSUPP) return -errno;
#endif
    return result(ftruncate(fd, (off_t)bytes));
}

int64_t blockio_allocated(int fd) {
    struct stat status;
    return fstat(fd, &status) < 0 ? -errno : (int64_t)status.st_blocks * 512;
}

int blockio_lock(int fd, bool exclusive) {
    return result(flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB));
}

int blockio_set_blocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -errno : result(fcntl(fd, F_SETFL, flags & ~O_NONBLOCK));
}

ssize_t blockio_pread(int fd, void *buffer, size_t bytes, uint64_t offset) {
    return transferred(pread(fd, buffer, bytes, (off_t)offset));
}

ssize_t blockio_pwrite(int fd, const void *buffer, size_t bytes, uint64_t offset) {
    return transferred(pwrite(fd, buffer, bytes, (off_t)offset));
}

int64_t blockio_seek_extent(int fd, bool hole, uint64_t offset) {
    off_t found = lseek(fd, (off_t)offset, hole ? SEEK_HOLE : SEEK_DATA);
    return found < 0 ? -errno : found;
}

void *blockio_map(size_t bytes, size_t alignment) {
    size_t whole = bytes + alignment;
    char *start = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    char *base = (char *)(((uintptr_t)start + alignment - 1) / alignment * alignment);
    if (base > start) munmap(start, (size_t)(base - start));
    char *end = start + whole;
    if (base + bytes < end) munmap(base + bytes, (size_t)(end - (base + bytes)));
    prepare_map(base, bytes);
    return base;
}

bool blockio_ignores_signal(int number) {
    struct sigaction current;
    return sigaction(number, NULL, &current) == 0 && current.sa_handler == SIG_IGN;
}

int blockio_send_datagram(const char *path, const char *text) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address.sun_path) return -ENAMETOOLONG;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0) return -errno;
    ssize_t sent = sendto(fd, text, strlen(text), 0, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    int result = sent < 0 ? -errno : 0;
    close(fd);
    return result;
}

uint64_t blockio_physical_memory(void) {
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

void blockio_unmap(void *base, size_t bytes) { munmap(base, bytes); }
