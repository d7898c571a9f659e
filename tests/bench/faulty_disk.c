/* A disk that fails, or a kill, at a chosen call: preloaded into a program (LD_PRELOAD).

   Counted are the calls that change files below FAULT_FOLDER, but for the lock: open to write,
   write, fsync, ftruncate, rename, unlink, mkdir. At call number FAULT_AT (from 1; 0: never)
   happens FAULT_HOW:

     kill    the process is killed before the call
     half    of a write, half arrives; any other call is done; then the process is killed
     short   half of the bytes are written, as a write may do; no other call is changed
     <n>     the call fails with this errno, and with FAULT_STAYS all later ones too

   FAULT_LOG, if set, gets a line for each call. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum verdict { PASS, FAIL, HALF, SHORT };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long calls;

static int ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static int is_ours(const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    if (!folder || !path || ends_with(path, ".lock")) return 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return 1;
}

static void log_call(long number, const char *name, const char *path) {
    static int (*real_open)(const char *, int, ...);
    static ssize_t (*real_write)(int, const void *, size_t);
    const char *place = getenv("FAULT_LOG");
    if (!place) return;
    if (!real_open) real_open = dlsym(RTLD_NEXT, "open");
    if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
    char line[PATH_MAX + 64];
    int n = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path);
    int fd = real_open(place, O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (fd < 0) return;
    if (real_write(fd, line, n) < 0) perror("FAULT_LOG");
    close(fd);
}

/* Count a call, and say what becomes of it. */
static enum verdict judge(const char *name, const char *path) {
    if (!is_ours(path)) return PASS;
    const char *at = getenv("FAULT_AT"), *how = getenv("FAULT_HOW");
    long wanted = at ? atol(at) : 0;
    pthread_mutex_lock(&lock);
    long number = ++calls;
    pthread_mutex_unlock(&lock);
    log_call(number, name, path);
    int stays = getenv("FAULT_STAYS") != NULL;
    if (!wanted || !how || number < wanted || (number > wanted && !stays)) return PASS;
    if (strcmp(how, "kill") == 0) kill(getpid(), SIGKILL);
    if (strcmp(how, "half") == 0) return HALF;
    if (strcmp(how, "short") == 0) return SHORT;
    errno = atoi(how);
    return FAIL;
}

static void end(enum verdict verdict) {
    if (verdict == HALF) kill(getpid(), SIGKILL);
}

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    char path[PATH_MAX];
    enum verdict verdict = path_of(fd, path) ? judge("write", path) : PASS;
    if (verdict == FAIL) return -1;
    if (verdict != PASS && size > 1) size /= 2;
    ssize_t done = real(fd, data, size);
    end(verdict);
    return done;
}

#define BY_FD(name, type, parameters, arguments) \
    type name parameters { \
        static type(*real) parameters; \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        char path[PATH_MAX]; \
        enum verdict verdict = path_of(fd, path) ? judge(#name, path) : PASS; \
        if (verdict == FAIL) return -1; \
        type done = real arguments; \
        end(verdict); \
        return done; \
    }

#define BY_PATH(name, parameters, arguments) \
    int name parameters { \
        static int(*real) parameters; \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        enum verdict verdict = judge(#name, path); \
        if (verdict == FAIL) return -1; \
        int done = real arguments; \
        end(verdict); \
        return done; \
    }

BY_FD(fsync, int, (int fd), (fd))
BY_FD(ftruncate, int, (int fd, off_t size), (fd, size))
BY_FD(ftruncate64, int, (int fd, off64_t size), (fd, size))
BY_PATH(rename, (const char *path, const char *other), (path, other))
BY_PATH(unlink, (const char *path), (path))
BY_PATH(mkdir, (const char *path, mode_t mode), (path, mode))

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        static int (*real)(const char *, int, ...); \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        int writes = flags & (O_WRONLY | O_RDWR | O_CREAT); \
        enum verdict verdict = writes ? judge("open", path) : PASS; \
        if (verdict == FAIL) return -1; \
        int done = real(path, flags, mode); \
        end(verdict); \
        return done; \
    }

OPEN(open)
OPEN(open64)
