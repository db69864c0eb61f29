/* Stands between a process and the C library (LD_PRELOAD): counts what changes files under one directory, and
 * at the n-th such call kills the process or makes the call fail. Python, SQLite, numpy and FAISS all come by.
 *
 * A write that is hit leaves half of its bytes. Syncing is counted and not done: whoever is killed keeps what
 * the kernel holds, and a run takes a tenth of the time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static volatile int is_armed;
static volatile long calls;
static long hit_at = -1;
static int error_number; /* 0: kill */
static int log_fd = -1;

/* Every call under `directory` from now on is counted; call number `at` (from 0) is hit. error 0 kills. */
void failing_calls_arm(const char *directory, long at, int error, const char *log) {
    strncpy(root, directory, sizeof root - 1);
    hit_at = at;
    error_number = error;
    calls = 0;
    log_fd = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
    is_armed = 1;
}

/* Stop counting; how many calls there were. */
long failing_calls_disarm(void) {
    is_armed = 0;
    if (log_fd >= 0) syscall(SYS_close, log_fd);
    log_fd = -1;
    return calls;
}

/* SQLite's -shm files are not counted: they are memory that processes share, made anew after each crash. */
static int is_inside(const char *path) {
    size_t length = strlen(root), all = strlen(path);
    if (all > 4 && strcmp(path + all - 4, "-shm") == 0) return 0;
    return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static void absolute(int directory, const char *name, char *path) {
    char before[PATH_MAX] = "";
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (directory == AT_FDCWD) {
        if (!getcwd(before, sizeof before)) before[0] = 0;
    } else {
        path_of(directory, before);
    }
    snprintf(path, PATH_MAX, "%.2000s/%.2000s", before, name);
}

static void note(const char *kind, const char *path) {
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", kind, path + strlen(root));
    if (log_fd >= 0) syscall(SYS_write, log_fd, line, (size_t)length);
}

/* Whether this call is the one. */
static int is_hit(const char *kind, const char *path) {
    if (!is_armed || !is_inside(path)) return 0;
    note(kind, path);
    return __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST) == hit_at;
}

static int is_hit_fd(const char *kind, int fd) {
    char path[PATH_MAX];
    return is_armed && path_of(fd, path) && is_hit(kind, path);
}

/* What happens to the one: the end, or an error for its caller. */
static int hit(void) {
    if (!error_number) syscall(SYS_kill, getpid(), SIGKILL);
    errno = error_number;
    return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int creates(int flags, const char *path) {
    return ((flags & O_CREAT) && access(path, F_OK) != 0) || (flags & O_TRUNC);
}

#define OPEN(name)                                                     \
    int name(const char *file, int flags, ...) {                       \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = (flags & O_CREAT) ? va_arg(more, mode_t) : 0;    \
        va_end(more);                                                  \
        char path[PATH_MAX];                                           \
        if (is_armed) {                                                \
            absolute(AT_FDCWD, file, path);                            \
            if (creates(flags, path) && is_hit("create", path)) return hit(); \
        }                                                              \
        return REAL(name)(file, flags, mode);                          \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                   \
    int name(int directory, const char *file, int flags, ...) {        \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = (flags & O_CREAT) ? va_arg(more, mode_t) : 0;    \
        va_end(more);                                                  \
        char path[PATH_MAX];                                           \
        if (is_armed) {                                                \
            absolute(directory, file, path);                           \
            if (creates(flags, path) && is_hit("create", path)) return hit(); \
        }                                                              \
        return REAL(name)(directory, file, flags, mode);               \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                    \
    FILE *name(const char *file, const char *mode) {                   \
        char path[PATH_MAX];                                           \
        if (is_armed && (mode[0] == 'w' || mode[0] == 'a')) {          \
            absolute(AT_FDCWD, file, path);                            \
            if (is_hit("create", path)) {                              \
                hit();                                                 \
                return NULL;                                           \
            }                                                          \
        }                                                              \
        return REAL(name)(file, mode);                                 \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *bytes, size_t count) {
    if (!is_hit_fd("write", fd)) return REAL(write)(fd, bytes, count);
    REAL(write)(fd, bytes, count / 2);
    return hit();
}

#define PWRITE(name, type)                                             \
    ssize_t name(int fd, const void *bytes, size_t count, type offset) { \
        if (!is_hit_fd("write", fd)) return REAL(name)(fd, bytes, count, offset); \
        REAL(name)(fd, bytes, count / 2, offset);                      \
        return hit();                                                  \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!is_hit_fd("write", fd)) return REAL(writev)(fd, parts, count);
    REAL(writev)(fd, parts, count / 2);
    return hit();
}

size_t fwrite(const void *bytes, size_t size, size_t count, FILE *file) {
    if (!is_hit_fd("write", fileno(file))) return REAL(fwrite)(bytes, size, count, file);
    size_t done = REAL(fwrite)(bytes, size, count / 2, file);
    fflush(file);
    hit();
    return done;
}

/* What FAISS and numpy have buffered is written here, and few look at what this returns. */
int fclose(FILE *file) {
    int fd = fileno(file);
    if (fd < 0 || !is_armed || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY || !is_hit_fd("flush", fd))
        return REAL(fclose)(file);
    __fpurge(file);
    if (!error_number) hit();
    REAL(fclose)(file);
    hit();
    return EOF;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t count) {
    return is_hit_fd("write", to) ? hit() : REAL(sendfile)(to, from, offset, count);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t count) {
    return is_hit_fd("write", to) ? hit() : REAL(sendfile64)(to, from, offset, count);
}

int fsync(int fd) {
    if (is_hit_fd("sync", fd)) return hit();
    return 0;
}

int fdatasync(int fd) {
    if (is_hit_fd("sync", fd)) return hit();
    return 0;
}

int ftruncate(int fd, off_t length) { return is_hit_fd("truncate", fd) ? hit() : REAL(ftruncate)(fd, length); }

int ftruncate64(int fd, off64_t length) {
    return is_hit_fd("truncate", fd) ? hit() : REAL(ftruncate64)(fd, length);
}

static int is_hit_at(const char *kind, int directory, const char *name) {
    char path[PATH_MAX];
    if (!is_armed) return 0;
    absolute(directory, name, path);
    return is_hit(kind, path);
}

int rename(const char *old, const char *new) {
    char path[PATH_MAX];
    if (is_armed) {
        absolute(AT_FDCWD, old, path);
        if (is_inside(path)) note("from", path);
    }
    return is_hit_at("rename", AT_FDCWD, new) ? hit() : REAL(rename)(old, new);
}

int unlink(const char *name) { return is_hit_at("remove", AT_FDCWD, name) ? hit() : REAL(unlink)(name); }

int unlinkat(int directory, const char *name, int flags) {
    return is_hit_at("remove", directory, name) ? hit() : REAL(unlinkat)(directory, name, flags);
}

int rmdir(const char *name) { return is_hit_at("remove", AT_FDCWD, name) ? hit() : REAL(rmdir)(name); }

int mkdir(const char *name, mode_t mode) {
    return is_hit_at("create", AT_FDCWD, name) ? hit() : REAL(mkdir)(name, mode);
}

int mkdirat(int directory, const char *name, mode_t mode) {
    return is_hit_at("create", directory, name) ? hit() : REAL(mkdirat)(directory, name, mode);
}
