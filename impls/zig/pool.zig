//! A few threads that share out the items of one job at a time.
//!
//! Which thread takes an item never shows in the result: an item is computed by one thread, by the same code.
//!
//! A forward pass is some hundred short jobs, microseconds apart, so a thread without work spins for a moment before it
//! sleeps: waking it would take longer than most jobs. It sleeps soon, though, and where there are more threads than
//! processors at once: other programs want the processor too.

const std = @import("std");
const assert = std.debug.assert;
const c = std.c;
const die = @import("system.zig").die;

/// Gathering threads costs microseconds: a job of fewer multiplications is faster alone.
const parallel_from_multiplications = 1 << 16;
/// Shares per thread, so that one that is held up by other programs does not hold up the others.
const shares_per_thread = 4;
/// Some 50 microseconds: longer than what lies between two jobs of one pass.
const spins_before_sleep = 2000;

pub const max_threads = 256;

/// How threads come into a job, and how the caller knows that all have left. The caller does not wait for threads that
/// never came: one that was asleep, or whose processor is taken, finds the gate closed.
const Gate = packed struct(u64) {
    n_inside: u16 = 0,
    is_open: bool = false,
    n_jobs: u47 = 0, // so far

    const one_inside: u64 = @bitCast(Gate{ .n_inside = 1 });
    const open: u64 = @bitCast(Gate{ .is_open = true });
    const next_open: u64 = @bitCast(Gate{ .is_open = true, .n_jobs = 1 });
};

pub const Pool = struct {
    n_threads: usize, // the caller of run() counts as one
    n_spins: usize = 0,
    gate: std.atomic.Value(u64) = .init(0),
    next: std.atomic.Value(usize) = .init(0), // items below were handed out
    n_asleep: std.atomic.Value(usize) = .init(0), // workers waiting for work_came
    is_caller_asleep: std.atomic.Value(bool) = .init(false),
    mutex: c.pthread_mutex_t = c.PTHREAD_MUTEX_INITIALIZER, // guards falling asleep and waking, nothing else
    work_came: c.pthread_cond_t = c.PTHREAD_COND_INITIALIZER,
    all_left: c.pthread_cond_t = c.PTHREAD_COND_INITIALIZER,
    job: Job = .{}, // written while nobody is inside

    const Job = struct {
        context: *const anyopaque = undefined,
        work: *const fn (context: *const anyopaque, begin: usize, end: usize) void = undefined,
        n_items: usize = 0,
        share: usize = 0, // items handed out at a time
    };

    /// The pool must not move from here on.
    pub fn start(pool: *Pool) void {
        assert(pool.n_threads >= 1 and pool.n_threads <= max_threads);
        const n_processors = std.Thread.getCpuCount() catch 1;
        if (pool.n_threads <= n_processors) pool.n_spins = spins_before_sleep;
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
        const n_shares = pool.n_threads * shares_per_thread;
        pool.job = .{
            .context = context,
            .work = Erased.call,
            .n_items = options.n_items,
            .share = (options.n_items + n_shares - 1) / n_shares,
        };
        pool.next.store(0, .seq_cst);
        const before: Gate = @bitCast(pool.gate.fetchAdd(Gate.next_open, .seq_cst));
        assert(!before.is_open and before.n_inside == 0);
        if (pool.n_asleep.load(.seq_cst) > 0) {
            pool.lock();
            ok(c.pthread_cond_broadcast(&pool.work_came));
            pool.unlock();
        }
        pool.takeShares();
        _ = pool.gate.fetchAnd(~Gate.open, .seq_cst);
        pool.awaitAllLeft();
    }

    fn takeShares(pool: *Pool) void {
        const job = pool.job;
        while (true) {
            const begin = pool.next.fetchAdd(job.share, .seq_cst);
            if (begin >= job.n_items) return;
            job.work(job.context, begin, @min(begin + job.share, job.n_items));
        }
    }

    fn serve(pool: *Pool) void {
        var seen: Gate = .{};
        while (true) {
            seen = pool.awaitJob(seen);
            // Another job may have been opened meanwhile: then that one is entered.
            while (seen.is_open) {
                const bits: u64 = @bitCast(seen);
                seen = @bitCast(pool.gate.cmpxchgWeak(bits, bits + Gate.one_inside, .seq_cst, .seq_cst) orelse break);
            } else continue;
            pool.takeShares();
            const left: Gate = @bitCast(pool.gate.fetchSub(Gate.one_inside, .seq_cst));
            if (!left.is_open and left.n_inside == 1 and pool.is_caller_asleep.load(.seq_cst)) {
                pool.lock();
                ok(c.pthread_cond_signal(&pool.all_left));
                pool.unlock();
            }
        }
    }

    /// Wait until the gate is open for a job after the one whose gate was seen.
    fn awaitJob(pool: *Pool, seen: Gate) Gate {
        for (0..pool.n_spins) |_| {
            if (pool.newJob(seen)) |gate| return gate;
            std.atomic.spinLoopHint();
        }
        pool.lock();
        defer pool.unlock();
        _ = pool.n_asleep.fetchAdd(1, .seq_cst); // before the gate is read: run() opens it before it reads this
        defer _ = pool.n_asleep.fetchSub(1, .seq_cst);
        while (true) {
            if (pool.newJob(seen)) |gate| return gate;
            ok(c.pthread_cond_wait(&pool.work_came, &pool.mutex));
        }
    }

    fn newJob(pool: *Pool, seen: Gate) ?Gate {
        const gate: Gate = @bitCast(pool.gate.load(.seq_cst));
        return if (gate.is_open and gate.n_jobs != seen.n_jobs) gate else null;
    }

    fn awaitAllLeft(pool: *Pool) void {
        for (0..pool.n_spins) |_| {
            if (!pool.isInside()) return;
            std.atomic.spinLoopHint();
        }
        pool.lock();
        defer pool.unlock();
        pool.is_caller_asleep.store(true, .seq_cst);
        defer pool.is_caller_asleep.store(false, .seq_cst);
        while (pool.isInside()) ok(c.pthread_cond_wait(&pool.all_left, &pool.mutex));
    }

    fn isInside(pool: *Pool) bool {
        const gate: Gate = @bitCast(pool.gate.load(.seq_cst));
        return gate.n_inside > 0;
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
