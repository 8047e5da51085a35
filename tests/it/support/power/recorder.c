/* What a process does to the files below one directory, written down in the order it happens: for tests of power loss.
 *
 * Loaded with LD_PRELOAD into the unmodified gateway (or into PostgreSQL) by `power/mod.rs`, which compiles it and which
 * reads the log. Every call goes through to the system except the flushes: they take as long as a disk would and
 * are only written down, because the test, not the disk, decides what survives.
 *
 * SIGNALBOX_POWER_DIR: the directory, an absolute path without symbolic links.
 * SIGNALBOX_POWER_LOG: the log, which exists.
 * SIGNALBOX_POWER_FLUSH_US: how long a flush takes.
 *
 * A record is `struct head`, then `length` bytes. Records are appended by one writev each, so the log has one order over
 * all threads and processes, and its length is a clock: whoever reads it after an answer has a moment at which
 * everything that led to the answer is in the log. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind {
    OPENED = 1,    /* file; path; number: 1 if it was truncated */
    WRITTEN = 2,   /* file; number: offset; the bytes */
    RESIZED = 3,   /* file; number: size */
    GROWN = 4,     /* file; number: least size */
    FLUSHED = 5,   /* file; number: length of the log when the flush began */
    RENAMED = 6,   /* two paths, a zero byte between them */
    UNLINKED = 7,  /* path */
    MADE_DIR = 8,  /* path */
    LINKED = 9,    /* two paths */
    FLUSHED_DIR = 10, /* number as of FLUSHED */
    MAPPED = 11,   /* file: written through memory, which is not seen */
    UNSEEN = 12,   /* something this file does not follow; its name */
};

struct head {
    uint32_t magic, kind;
    uint64_t file, number;
    uint64_t length;
};

#define MAGIC 0x50574c31u
#define MAX_FDS 65536

static char directory[PATH_MAX];
static size_t directory_length;
static int log_fd = -1;
static struct timespec flush_time;
/* By descriptor: nothing, a file, a directory. */
static unsigned char tracked[MAX_FDS];
static uint64_t inode[MAX_FDS];
static pthread_mutex_t naming = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void fail(const char *what) {
    dprintf(2, "power recorder: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("SIGNALBOX_POWER_DIR"), *log = getenv("SIGNALBOX_POWER_LOG");
    const char *flush = getenv("SIGNALBOX_POWER_FLUSH_US");
    if (!dir || !log) return;
    long us = flush ? atol(flush) : 0;
    flush_time = (struct timespec){us / 1000000, us % 1000000 * 1000};
    directory_length = strlen(dir);
    memcpy(directory, dir, directory_length + 1);
    int (*really_open)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    int fd = really_open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) fail(log);
    /* Out of the way of programs that count on low numbers. */
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 700);
    if (log_fd < 0) fail("dup");
    close(fd);
}

static uint64_t log_length(void) {
    struct stat now;
    if (fstat(log_fd, &now)) fail("fstat");
    return (uint64_t)now.st_size;
}

static void record(enum kind kind, uint64_t file, uint64_t number, const struct iovec *parts, int count) {
    int before = errno;
    struct iovec all[count + 1];
    struct head head = {MAGIC, kind, file, number, 0};
    for (int part = 0; part < count; part++) {
        all[part + 1] = parts[part];
        head.length += parts[part].iov_len;
    }
    all[0] = (struct iovec){&head, sizeof head};
    ssize_t (*really_writev)(int, const struct iovec *, int) =
        (ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    if (really_writev(log_fd, all, count + 1) != (ssize_t)(sizeof head + head.length)) fail("the log is cut short");
    errno = before;
}

static void record_text(enum kind kind, uint64_t file, uint64_t number, const char *text) {
    struct iovec part = {(void *)text, strlen(text)};
    record(kind, file, number, &part, 1);
}

/* Names change in one order, over threads and processes. */
static void lock_names(void) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    pthread_mutex_lock(&naming);
    while (fcntl(log_fd, F_SETLKW, &lock) && errno == EINTR) {}
}

static void unlock_names(void) {
    int before = errno;
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    fcntl(log_fd, F_SETLK, &lock);
    pthread_mutex_unlock(&naming);
    errno = before;
}

/* Writes the absolute path; whether it is below the directory. */
static int resolve(const char *path, char *whole) {
    if (log_fd < 0) return 0;
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
    } else {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        while (path[0] == '.' && path[1] == '/') path += 2;
        if (snprintf(whole, PATH_MAX, "%s/%s", here, path) >= PATH_MAX) return 0;
    }
    return strncmp(whole, directory, directory_length) == 0
        && (whole[directory_length] == '/' || whole[directory_length] == 0);
}

static int is_tracked(int fd) {
    return log_fd >= 0 && fd >= 0 && fd < MAX_FDS && tracked[fd] == 1;
}

/* The path that a descriptor has, if it is one of ours. */
static void track(int fd, int flags) {
    char link[64], path[PATH_MAX];
    struct stat file;
    if (log_fd < 0 || fd < 0 || fd >= MAX_FDS) return;
    tracked[fd] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    char whole[PATH_MAX];
    if (!resolve(path, whole) || fstat(fd, &file)) return;
    inode[fd] = file.st_ino;
    if (S_ISDIR(file.st_mode)) {
        tracked[fd] = 2;
    } else if (S_ISREG(file.st_mode)) {
        tracked[fd] = 1;
        record_text(OPENED, file.st_ino, (flags & O_TRUNC) != 0, whole);
        if (flags & (O_DSYNC | O_SYNC)) record_text(UNSEEN, file.st_ino, 0, "O_SYNC");
    }
}

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (log_fd < 0) return real(path, flags, mode);
    lock_names();
    int fd = real(path, flags, mode);
    if (fd >= 0) track(fd, flags);
    unlock_names();
    return fd;
}

static int opened_at(int (*real)(int, const char *, int, ...), int at, const char *path, int flags, mode_t mode) {
    if (log_fd < 0) return real(at, path, flags, mode);
    lock_names();
    int fd = real(at, path, flags, mode);
    if (fd >= 0) track(fd, flags);
    unlock_names();
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }

int open(const char *path, int flags, ...) { REAL(open); MODE(flags); return opened(real, path, flags, mode); }
int open64(const char *path, int flags, ...) { REAL(open64); MODE(flags); return opened(real, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { REAL(openat); MODE(flags); return opened_at(real, at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { REAL(openat64); MODE(flags); return opened_at(real, at, path, flags, mode); }
/* What the two become in programs built with fortified headers. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    REAL(close);
    if (fd == log_fd && fd >= 0) return 0;
    if (fd >= 0 && fd < MAX_FDS) tracked[fd] = 0;
    return real(fd);
}

static int copied(int from, int to) {
    if (to >= 0 && to < MAX_FDS && from >= 0 && from < MAX_FDS) {
        tracked[to] = tracked[from];
        inode[to] = inode[from];
    }
    return to;
}

int dup(int from) { REAL(dup); return copied(from, real(from)); }
int dup2(int from, int to) { REAL(dup2); return copied(from, real(from, to)); }
int dup3(int from, int to, int flags) { REAL(dup3); return copied(from, real(from, to, flags)); }

/* --- contents --------------------------------------------------------------------------------------------------- */

static void written(int fd, uint64_t offset, const struct iovec *parts, int count, ssize_t done) {
    struct iovec really[count];
    int used = 0;
    size_t left = (size_t)done;
    for (; used < count && left > 0; used++) {
        really[used] = parts[used];
        if (really[used].iov_len > left) really[used].iov_len = left;
        left -= really[used].iov_len;
    }
    record(WRITTEN, inode[fd], offset, really, used);
}

static uint64_t position(int fd) {
    struct stat file;
    if (fcntl(fd, F_GETFL) & O_APPEND) return fstat(fd, &file) ? 0 : (uint64_t)file.st_size;
    return (uint64_t)lseek(fd, 0, SEEK_CUR);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(write);
    if (!is_tracked(fd)) return real(fd, bytes, length);
    uint64_t offset = position(fd);
    ssize_t done = real(fd, bytes, length);
    struct iovec part = {(void *)bytes, length};
    if (done > 0) written(fd, offset, &part, 1, done);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (!is_tracked(fd)) return real(fd, parts, count);
    uint64_t offset = position(fd);
    ssize_t done = real(fd, parts, count);
    if (done > 0) written(fd, offset, parts, count, done);
    return done;
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *bytes, size_t length, off_t offset) { \
        REAL(name); \
        ssize_t done = real(fd, bytes, length, offset); \
        struct iovec part = {(void *)bytes, length}; \
        if (done > 0 && is_tracked(fd)) written(fd, (uint64_t)offset, &part, 1, done); \
        return done; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name) \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t offset) { \
        REAL(name); \
        ssize_t done = real(fd, parts, count, offset); \
        if (done > 0 && is_tracked(fd)) written(fd, (uint64_t)offset, parts, count, done); \
        return done; \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

#define RESIZE(name) \
    int name(int fd, off_t size) { \
        REAL(name); \
        int done = real(fd, size); \
        if (done == 0 && is_tracked(fd)) record(RESIZED, inode[fd], (uint64_t)size, NULL, 0); \
        return done; \
    }
RESIZE(ftruncate)
RESIZE(ftruncate64)

#define TRUNCATE(name) \
    int name(const char *path, off_t size) { \
        REAL(name); \
        char whole[PATH_MAX]; \
        struct stat file; \
        if (!resolve(path, whole)) return real(path, size); \
        lock_names(); \
        int done = real(path, size); \
        if (done == 0 && stat(path, &file) == 0) { \
            record_text(OPENED, file.st_ino, 0, whole); \
            record(RESIZED, file.st_ino, (uint64_t)size, NULL, 0); \
        } \
        unlock_names(); \
        return done; \
    }
TRUNCATE(truncate)
TRUNCATE(truncate64)

#define GROW(name) \
    int name(int fd, off_t offset, off_t length) { \
        REAL(name); \
        int done = real(fd, offset, length); \
        if (done == 0 && is_tracked(fd)) record(GROWN, inode[fd], (uint64_t)(offset + length), NULL, 0); \
        return done; \
    }
GROW(posix_fallocate)
GROW(posix_fallocate64)

int fallocate(int fd, int mode, off_t offset, off_t length) {
    REAL(fallocate);
    int done = real(fd, mode, offset, length);
    if (done == 0 && is_tracked(fd)) {
        if (mode == 0) record(GROWN, inode[fd], (uint64_t)(offset + length), NULL, 0);
        else record_text(UNSEEN, inode[fd], 0, "fallocate");
    }
    return done;
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t length, unsigned flags) {
    REAL(copy_file_range);
    if (is_tracked(to)) record_text(UNSEEN, inode[to], 0, "copy_file_range");
    return real(from, at, to, there, length, flags);
}

static void mapped(int prot, int flags, int fd) {
    if ((prot & PROT_WRITE) && (flags & MAP_SHARED) && is_tracked(fd)) record(MAPPED, inode[fd], 0, NULL, 0);
}

void *mmap(void *where, size_t length, int prot, int flags, int fd, off_t offset) {
    REAL(mmap);
    mapped(prot, flags, fd);
    return real(where, length, prot, flags, fd, offset);
}

void *mmap64(void *where, size_t length, int prot, int flags, int fd, off_t offset) {
    REAL(mmap64);
    mapped(prot, flags, fd);
    return real(where, length, prot, flags, fd, offset);
}

/* --- flushes ---------------------------------------------------------------------------------------------------- */

static int flushed(int fd) {
    uint64_t began = log_length();
    struct timespec left = flush_time;
    int before = errno;
    while (nanosleep(&left, &left) && errno == EINTR) {}
    errno = before;
    record(tracked[fd] == 2 ? FLUSHED_DIR : FLUSHED, inode[fd], began, NULL, 0);
    return 0;
}

#define FLUSH(name) \
    int name(int fd) { \
        REAL(name); \
        if (log_fd >= 0 && fd >= 0 && fd < MAX_FDS && tracked[fd]) return flushed(fd); \
        return real(fd); \
    }
FLUSH(fsync)
FLUSH(fdatasync)

/* --- names ------------------------------------------------------------------------------------------------------ */

static int two_names(enum kind kind, int (*real)(const char *, const char *), const char *from, const char *to) {
    char old[PATH_MAX], new[PATH_MAX];
    int ours = resolve(from, old) + resolve(to, new);
    if (ours == 0) return real(from, to);
    lock_names();
    int done = real(from, to);
    if (done == 0 && ours == 2) {
        struct iovec parts[] = {{old, strlen(old) + 1}, {new, strlen(new)}};
        record(kind, 0, 0, parts, 2);
    } else if (done == 0) {
        record_text(UNSEEN, 0, 0, "a rename across the border");
    }
    unlock_names();
    return done;
}

static int one_name(enum kind kind, int (*real)(const char *), const char *path) {
    char whole[PATH_MAX];
    if (!resolve(path, whole)) return real(path);
    lock_names();
    int done = real(path);
    if (done == 0) record_text(kind, 0, 0, whole);
    unlock_names();
    return done;
}

int rename(const char *from, const char *to) { REAL(rename); return two_names(RENAMED, real, from, to); }
int link(const char *from, const char *to) { REAL(link); return two_names(LINKED, real, from, to); }
int unlink(const char *path) { REAL(unlink); return one_name(UNLINKED, real, path); }
int rmdir(const char *path) { REAL(rmdir); return one_name(UNLINKED, real, path); }

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    char whole[PATH_MAX];
    if (!resolve(path, whole)) return real(path, mode);
    lock_names();
    int done = real(path, mode);
    if (done == 0) record_text(MADE_DIR, 0, 0, whole);
    unlock_names();
    return done;
}

int renameat(int at, const char *from, int there, const char *to) {
    REAL(renameat);
    if (at == AT_FDCWD && there == AT_FDCWD) return rename(from, to);
    if (log_fd >= 0) record_text(UNSEEN, 0, 0, "renameat");
    return real(at, from, there, to);
}

int renameat2(int at, const char *from, int there, const char *to, unsigned flags) {
    REAL(renameat2);
    if (at == AT_FDCWD && there == AT_FDCWD && flags == 0) return rename(from, to);
    if (log_fd >= 0) record_text(UNSEEN, 0, 0, "renameat2");
    return real(at, from, there, to, flags);
}

int linkat(int at, const char *from, int there, const char *to, int flags) {
    REAL(linkat);
    if (at == AT_FDCWD && there == AT_FDCWD && flags == 0) return link(from, to);
    if (log_fd >= 0) record_text(UNSEEN, 0, 0, "linkat");
    return real(at, from, there, to, flags);
}

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    if (at == AT_FDCWD) return flags & AT_REMOVEDIR ? rmdir(path) : unlink(path);
    if (log_fd >= 0) record_text(UNSEEN, 0, 0, "unlinkat");
    return real(at, path, flags);
}
