// A file layer under a whole process (LD_PRELOAD): before everything that changes a file or folder below one root, a
// function of the test is called, which may kill the process, or say with which error the call fails. Libraries in C,
// C++ and Rust go through it as Python does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

typedef int (*Judge)(const char* operation, const char* path);  // 0, or the errno that the operation fails with
static Judge judge;
static char root[PATH_MAX];
static __thread int inside;

void x2sam_watch(Judge function, const char* folder) {
  snprintf(root, sizeof root, "%s", folder ? folder : "");
  judge = function;
}

static int fails(const char* operation, const char* path) {
  if (!judge || inside || !path || strncmp(path, root, strlen(root)) != 0) return 0;
  inside = 1;
  const int error = judge(operation, path);
  inside = 0;
  errno = error;
  return error != 0;
}

static int fails_fd(const char* operation, int fd) {
  if (!judge || inside) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(operation, path);
}

static int writes(int flags) { return (flags & (O_CREAT | O_TRUNC)) != 0; }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                       \
  int name(const char* path, int flags, ...) {                           \
    va_list rest;                                                        \
    va_start(rest, flags);                                               \
    const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;      \
    va_end(rest);                                                        \
    if (writes(flags) && fails("open", path)) return -1;                 \
    return NEXT(name)(path, flags, mode);                                \
  }
#define OPENAT(name)                                                     \
  int name(int folder, const char* path, int flags, ...) {               \
    va_list rest;                                                        \
    va_start(rest, flags);                                               \
    const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;      \
    va_end(rest);                                                        \
    if (writes(flags) && fails("open", path)) return -1;                 \
    return NEXT(name)(folder, path, flags, mode);                        \
  }
#define FOPEN(name)                                                      \
  FILE* name(const char* path, const char* mode) {                       \
    if (mode[0] != 'r' && fails("open", path)) return NULL;              \
    return NEXT(name)(path, mode);                                       \
  }
#define ON_FD(result, name, parameters, arguments, fd)                   \
  result name parameters {                                               \
    if (fails_fd(#name, fd)) return -1;                                  \
    return NEXT(name) arguments;                                         \
  }
#define ON_PATH(name, parameters, arguments, path)                       \
  int name parameters {                                                  \
    if (fails(#name, path)) return -1;                                   \
    return NEXT(name) arguments;                                         \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
ON_FD(ssize_t, write, (int fd, const void* data, size_t size), (fd, data, size), fd)
ON_FD(ssize_t, pwrite, (int fd, const void* data, size_t size, off_t at), (fd, data, size, at), fd)
ON_FD(ssize_t, pwrite64, (int fd, const void* data, size_t size, off64_t at), (fd, data, size, at), fd)
ON_FD(ssize_t, writev, (int fd, const struct iovec* data, int count), (fd, data, count), fd)
ON_FD(ssize_t, sendfile, (int fd, int from, off_t* at, size_t size), (fd, from, at, size), fd)
ON_FD(ssize_t, sendfile64, (int fd, int from, off64_t* at, size_t size), (fd, from, at, size), fd)
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size), fd)
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size), fd)
ON_PATH(mkdir, (const char* path, mode_t mode), (path, mode), path)
ON_PATH(rename, (const char* from, const char* to), (from, to), to)
ON_PATH(link, (const char* from, const char* to), (from, to), to)
ON_PATH(renameat2, (int f, const char* from, int t, const char* to, unsigned flags), (f, from, t, to, flags), to)

size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  if (fails_fd("write", fileno(file))) return 0;
  return NEXT(fwrite)(data, size, count, file);
}
