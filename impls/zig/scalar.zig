//! The same program without vectors: every sum is one chain, from left to right. Build this file instead of run.zig.

const run = @import("run.zig");

pub const lanes = 1;
pub const main = run.main;
pub const panic = run.panic;
pub const std_options = run.std_options;
