// SPDX-License-Identifier: Apache-2.0
// Puts the wall clock of one process ahead by the seconds that a mapped file holds; elapsed time
// goes on as it is. libfaketime does the same, but not for waits by cnd_timedwait, librdkafka's:
// glibc wakes them at a true time, an hour after the false one that they were told.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

// No machine is up for so long: a later deadline is one of the wall clock.
#define UPTIME_S_MAX 1000000000

static volatile const int64_t *ahead_s;

__attribute__((constructor)) static void map_file(void) {
  const char *path = getenv("WALL_CLOCK_FILE");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *mapped = mmap(NULL, sizeof *ahead_s, PROT_READ, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) _exit(70);
  ahead_s = mapped;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  int failed = syscall(SYS_clock_gettime, clock, at);
  if (!failed && ahead_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    at->tv_sec += *ahead_s;
  return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  *at = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  if (until->tv_sec < UPTIME_S_MAX)
    return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, until);
  struct timespec truly = {until->tv_sec - *ahead_s, until->tv_nsec};
  return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &truly);
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                  const struct timespec *restrict until) {
  int failed = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
  return failed == ETIMEDOUT ? thrd_timedout : failed ? thrd_error : thrd_success;
}
