#define _GNU_SOURCE
#include "Support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the child: only calls that are safe after a fork of a program with threads. */
static void become(char *const *arguments, int error_output) {
  /* A benchmark that is killed must not leave copies running behind it. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int null = open("/dev/null", O_RDWR);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0) _exit(126);
  if (dup2(error_output, STDERR_FILENO) < 0) _exit(126);
  execv(arguments[0], arguments);
  _exit(127);
}

static char *const *next_command(char *const *arguments) {
  while (*arguments != NULL) arguments += 1;
  return arguments + 1;
}

static int wait_for(pid_t process, int *status, uint64_t *peak_kib) {
  struct rusage usage;
  while (wait4(process, status, 0, &usage) < 0) {
    if (errno != EINTR) return errno;
  }
  *peak_kib += (uint64_t)usage.ru_maxrss;
  return 0;
}

/*
 * Why a fork and not posix_spawn: a program that is spawned by vfork begins its record of peak
 * memory with the peak of the program that spawned it. A fork's begins with the private pages it
 * inherits, which the benchmark keeps to a few MiB.
 */
bare_result bare_run_processes(
    char *const *arguments, unsigned count, int error_output, bare_usage *usage) {
  *usage = (bare_usage){.failed = -1};
  if (count == 0 || count > BARE_MAX_PROCESSES) return (bare_result){0, EINVAL};
  pid_t processes[BARE_MAX_PROCESSES];
  unsigned started = 0;
  int error = 0;
  uint64_t start = bare_now();
  while (started < count) {
    pid_t process = fork();
    if (process == 0) become(arguments, error_output);
    if (process < 0) {
      error = errno;
      break;
    }
    processes[started] = process;
    started += 1;
    arguments = next_command(arguments);
  }
  for (unsigned index = 0; index < started; index += 1) {
    int status = 0;
    int failure = wait_for(processes[index], &status, &usage->peak_kib);
    if (failure != 0) error = failure;
    if (status != 0 && usage->failed < 0) {
      usage->failed = (int)index;
      usage->status = status;
    }
  }
  return (bare_result){bare_now() - start, error};
}
