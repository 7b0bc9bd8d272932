//! A few threads that share out the items of one job at a time, and sleep while there is none.
//!
//! Which thread takes an item never shows in the result: an item is computed by one thread, by the same code.

const std = @import("std");
const assert = std.debug.assert;
const c = std.c;
const die = @import("system.zig").die;

/// Waking a thread costs microseconds: a job of fewer multiplications is faster alone.
const parallel_from_multiplications = 1 << 17;
/// Shares per thread, so that one that is held up by other programs does not hold up the others.
const shares_per_thread = 4;

pub const max_threads = 256;

pub const Pool = struct {
    n_threads: usize, // the caller of run() counts as one
    mutex: c.pthread_mutex_t = c.PTHREAD_MUTEX_INITIALIZER,
    work_came: c.pthread_cond_t = c.PTHREAD_COND_INITIALIZER,
    work_ended: c.pthread_cond_t = c.PTHREAD_COND_INITIALIZER,
    // All of the following is guarded by the mutex.
    job: Job = .{},
    next: usize = 0, // items below were handed out
    n_busy: usize = 0, // threads computing a share

    const Job = struct {
        context: *const anyopaque = undefined,
        work: *const fn (context: *const anyopaque, begin: usize, end: usize) void = undefined,
        n_items: usize = 0,
        share: usize = 0, // items handed out at a time
    };

    /// The pool must not move from here on.
    pub fn start(pool: *Pool) void {
        assert(pool.n_threads >= 1 and pool.n_threads <= max_threads);
        for (1..pool.n_threads) |_| {
            const thread = std.Thread.spawn(.{}, serve, .{pool}) catch |err| die("cannot start a thread: {t}", .{err});
            thread.detach();
        }
    }

    /// Call work(context, begin, end) for ranges that together are 0..n_items, and return when all are done.
    pub fn run(
        pool: *Pool,
        context: anytype,
        comptime work: fn (context: @TypeOf(context), begin: usize, end: usize) void,
        options: struct { n_items: usize, multiplications: usize },
    ) void {
        if (pool.n_threads == 1 or options.multiplications < parallel_from_multiplications)
            return work(context, 0, options.n_items);
        const Erased = struct {
            fn call(pointer: *const anyopaque, begin: usize, end: usize) void {
                work(@ptrCast(@alignCast(pointer)), begin, end);
            }
        };
        pool.lock();
        defer pool.unlock();
        assert(pool.next >= pool.job.n_items and pool.n_busy == 0);
        const n_shares = pool.n_threads * shares_per_thread;
        pool.job = .{
            .context = context,
            .work = Erased.call,
            .n_items = options.n_items,
            .share = (options.n_items + n_shares - 1) / n_shares,
        };
        pool.next = 0;
        ok(c.pthread_cond_broadcast(&pool.work_came));
        while (pool.takeShare()) {}
        while (pool.n_busy > 0) ok(c.pthread_cond_wait(&pool.work_ended, &pool.mutex));
    }

    /// Compute one share, if there is one left. Called and returning with the mutex locked.
    fn takeShare(pool: *Pool) bool {
        const job = pool.job;
        const begin = pool.next;
        if (begin >= job.n_items) return false;
        const end = @min(begin + job.share, job.n_items);
        pool.next = end;
        pool.n_busy += 1;
        pool.unlock();
        job.work(job.context, begin, end);
        pool.lock();
        pool.n_busy -= 1;
        return true;
    }

    fn serve(pool: *Pool) void {
        pool.lock();
        while (true) {
            while (pool.takeShare()) {}
            if (pool.n_busy == 0) ok(c.pthread_cond_signal(&pool.work_ended));
            ok(c.pthread_cond_wait(&pool.work_came, &pool.mutex));
        }
    }

    fn lock(pool: *Pool) void {
        ok(c.pthread_mutex_lock(&pool.mutex));
    }

    fn unlock(pool: *Pool) void {
        ok(c.pthread_mutex_unlock(&pool.mutex));
    }

    fn ok(result: c.E) void {
        if (result != .SUCCESS) die("a lock failed: {t}", .{result});
    }
};
