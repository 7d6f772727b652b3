// The least a server of NBD can do for a request, for Benchmarks/nbd-servers: one thread per
// connection that waits with epoll, reads a head, reads or writes the file and answers. No limits, no
// checks of requests, no end: only for that benchmark.
//
//   cc -O2 -pthread -o bare-nbd-server bare-nbd-server.c && ./bare-nbd-server SOCKET IMAGE

#define _GNU_SOURCE
#include <endian.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int image;
static uint64_t size;

struct __attribute__((packed)) option { uint64_t magic; uint32_t option, length; };
struct __attribute__((packed)) option_reply { uint64_t magic; uint32_t option, type, length; };
struct __attribute__((packed)) info { uint16_t type; uint64_t size; uint16_t flags; };
struct __attribute__((packed)) request {
  uint32_t magic; uint16_t flags, type; uint64_t cookie, offset; uint32_t length;
};
struct __attribute__((packed)) reply { uint32_t magic, error; uint64_t cookie; };

static int get(int fd, void *bytes, size_t count) {
  for (char *at = bytes; count > 0;) {
    ssize_t got = read(fd, at, count);
    if (got <= 0) return -1;
    at += got, count -= got;
  }
  return 0;
}

static int put(int fd, const void *bytes, size_t count) {
  for (const char *at = bytes; count > 0;) {
    ssize_t gone = write(fd, at, count);
    if (gone <= 0) return -1;
    at += gone, count -= gone;
  }
  return 0;
}

// Answers options until GO; every export is the image. Refuses all that isn't INFO or GO.
static int negotiate(int fd) {
  uint64_t greeting[2] = {htobe64(0x4e42444d41474943), htobe64(0x49484156454f5054)};
  uint16_t flags = htobe16(3);
  uint32_t client_flags;
  if (put(fd, greeting, 16) || put(fd, &flags, 2) || get(fd, &client_flags, 4)) return -1;
  for (;;) {
    struct option head;
    char data[4096];
    if (get(fd, &head, sizeof head)) return -1;
    uint32_t option = be32toh(head.option), length = be32toh(head.length);
    if (length > sizeof data || get(fd, data, length)) return -1;
    struct option_reply reply = {htobe64(0x3e889045565a9), head.option, 0, 0};
    if (option != 6 && option != 7) {
      reply.type = htobe32(0x80000001);
      if (put(fd, &reply, sizeof reply)) return -1;
      continue;
    }
    // Flags, flush, FUA, several connections.
    struct info info = {0, htobe64(size), htobe16(1 | 4 | 8 | 256)};
    reply.type = htobe32(3), reply.length = htobe32(sizeof info);
    if (put(fd, &reply, sizeof reply) || put(fd, &info, sizeof info)) return -1;
    reply.type = htobe32(1), reply.length = 0;
    if (put(fd, &reply, sizeof reply)) return -1;
    if (option == 7) return 0;
  }
}

static void *serve(void *argument) {
  int fd = (int)(intptr_t)argument;
  char *memory = malloc(sizeof(struct reply) + (32 << 20));
  char *data = memory + sizeof(struct reply);
  int waiter = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  epoll_ctl(waiter, EPOLL_CTL_ADD, fd, &event);
  if (memory && negotiate(fd) == 0) {
    for (;;) {
      struct request request;
      epoll_wait(waiter, &event, 1, -1);
      if (get(fd, &request, sizeof request)) break;
      uint32_t length = be32toh(request.length);
      uint64_t offset = be64toh(request.offset);
      uint16_t type = be16toh(request.type);
      if (type == 2 || length > 32 << 20) break;
      struct reply reply = {htobe32(0x67446698), 0, request.cookie};
      memcpy(memory, &reply, sizeof reply);
      if (type == 1 && (get(fd, data, length) || pwrite(image, data, length, offset) < 0)) break;
      if (type == 0 && pread(image, data, length, offset) < 0) break;
      if (put(fd, memory, sizeof reply + (type == 0 ? length : 0))) break;
    }
  }
  close(waiter), close(fd), free(memory);
  return NULL;
}

int main(int count, char **arguments) {
  if (count != 3) return fprintf(stderr, "usage: bare-nbd-server SOCKET IMAGE\n"), 2;
  image = open(arguments[2], O_RDWR);
  struct stat status;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, arguments[1], sizeof address.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (image < 0 || fstat(image, &status) || bind(listener, (void *)&address, sizeof address)
      || listen(listener, 16)) return perror("bare-nbd-server"), 1;
  size = status.st_size;
  for (;;) {
    int fd = accept(listener, NULL, NULL), buffer = 4 << 20;
    if (fd < 0) return perror("accept"), 1;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd)) close(fd);
    else pthread_detach(thread);
  }
}
