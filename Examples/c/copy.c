/*
 * copy SOURCE DESTINATION... - copies a file or a disk to one or more others with kcopyd.
 *
 * The destinations are overwritten; files that don't exist are made. Exits with 1 when anything
 * went wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <kcopyd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the notification leaves for main. */
struct outcome {
    int notifications;
    int read_err;
    unsigned int write_err;
};

/* Called on the library's thread when the job is over. Nothing here waits for anything. */
static void copied(int read_err, unsigned int write_err, void *context) {
    struct outcome *outcome = context;
    outcome->notifications += 1;
    outcome->read_err = read_err;
    outcome->write_err = write_err;
}

static void die(const char *what, const char *name, int error) {
    fprintf(stderr, "copy: cannot %s '%s': %s\n", what, name, strerror(error));
    exit(1);
}

/* kcopyd opens what exists: a new file has to be made, and any file given the right length. */
static void prepare_file(const char *path, off_t bytes) {
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode)) return;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, bytes) < 0) die("make", path, errno);
    close(fd);
}

static struct block_device *open_device(const char *path, unsigned int flags) {
    struct block_device *device;
    int error = kcopyd_block_device_open(path, flags, &device);
    if (error < 0) die("open", path, -error);
    return device;
}

int main(int argc, char **argv) {
    unsigned int count = (unsigned int)argc - 2;
    if (argc < 3 || count > KCOPYD_MAX_DESTS) {
        fprintf(stderr, "usage: %s SOURCE DESTINATION...\n", argv[0]);
        return 2;
    }

    struct io_region from = {.bdev = open_device(argv[1], 0)};
    from.count = kcopyd_block_device_sectors(from.bdev);
    struct stat status;
    if (stat(argv[1], &status) < 0) die("find", argv[1], errno);
    off_t bytes = S_ISREG(status.st_mode) ? status.st_size : (off_t)(from.count * 512);

    struct io_region dests[KCOPYD_MAX_DESTS];
    for (unsigned int i = 0; i < count; i++) {
        prepare_file(argv[i + 2], bytes);
        dests[i].bdev = open_device(argv[i + 2], KCOPYD_OPEN_WRITE);
        dests[i].sector = 0;
        dests[i].count = from.count;
    }

    /* 1024 pages hold the 8 pieces of 512 KiB that are under way at once. */
    struct kcopyd_client *client;
    int error = kcopyd_client_create(1024, &client);
    if (error < 0) die("create a client for", argv[1], -error);

    struct outcome outcome = {0};
    error = kcopyd_copy(client, &from, count, dests, 0, copied, &outcome);
    if (error < 0) die("copy", argv[1], -error);

    /* Waits for the notification. A program with more to do would let copied() wake it up. */
    kcopyd_client_destroy(client);
    printf("%d notification: read_err %d, write_err 0x%x\n", outcome.notifications,
           outcome.read_err, outcome.write_err);

    /* The engine doesn't flush: only now will the copies survive a loss of power. */
    int failed = outcome.read_err != 0 || outcome.write_err != 0;
    for (unsigned int i = 0; i < count; i++) {
        error = kcopyd_block_device_flush(dests[i].bdev);
        if (error < 0) die("flush", argv[i + 2], -error);
        kcopyd_block_device_close(dests[i].bdev);
    }
    kcopyd_block_device_close(from.bdev);
    return failed;
}
