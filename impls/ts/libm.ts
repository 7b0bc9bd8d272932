/**
 * expf, sinf and cosf as the GNU C library computes them.
 *
 * int8 text changes with the last bit of an activation, and llama2.c's is defined by the C library's functions. A rounded
 * Math.exp differs from expf for one number in 3,600, so the library's own method is followed: a range reduction and a
 * short polynomial in double, rounded once. Its machine code may fuse a product and a sum where JavaScript cannot; the
 * test compares millions of arguments with the C library of its machine.
 *
 * Source of the method and of its constants: glibc 2.28 and later, sysdeps/ieee754/flt-32 (ARM's optimized routines).
 */
const { fround } = Math;

/** Added and taken away again, rounds a double below 2^51 to an integer, half to even. */
const ROUNDER = 1.5 * 2 ** 52;

const STEPS = 32; // exp(x) = 2^(k / 32) * exp(r)
const LOWEST = -160; // an exponent below all that float32 has
const fractionPowers = Float64Array.from({ length: STEPS }, (_, i) => 2 ** (i / STEPS));
const wholePowers = Float64Array.from({ length: 300 }, (_, i) => 2 ** (i + LOWEST));
const STEPS_PER_E = 1.4426950408889634 * STEPS;
const EXP_1 = 0.6931471806916203 / STEPS;
const EXP_2 = 0.2402284522445722 / STEPS ** 2;
const EXP_3 = 0.05550361559341535 / STEPS ** 3;

export function expf(x: number): number {
  if (!(x < 88.72283172607422)) return x + Infinity; // overflow; NaN stays NaN
  if (x < -103.97207641601562) return 0;
  const z = STEPS_PER_E * x;
  const k = z + ROUNDER - ROUNDER;
  const r = z - k;
  const power = fractionPowers[k & (STEPS - 1)] * wholePowers[(k >> 5) - LOWEST];
  return fround(((EXP_3 * r + EXP_2) * (r * r) + (EXP_1 * r + 1)) * power);
}

const QUARTERS_PER_RADIAN = 0.6366197723675814;
// A quarter turn in pieces so short that their products with a count of quarters are exact: the first two are the double
// nearest pi / 2, the third is what that lacks.
const QUARTER = 1.5707963267948966;
const QUARTER_HIGH = Math.floor(QUARTER * 2 ** 32) / 2 ** 32;
const QUARTER_LOW = QUARTER - QUARTER_HIGH;
const QUARTER_REST = 6.123233995736766e-17;

/** sin(x + quarters * pi / 2) for an x that is a float32 below a million. */
function sinePlusQuarters(x: number, quarters: number): number {
  const n = Math.floor(x * QUARTERS_PER_RADIAN + 0.5);
  let r = x - n * QUARTER_HIGH - n * QUARTER_LOW;
  if (Math.abs(x) >= 120) r -= n * QUARTER_REST; // so glibc: from there on it reduces with more bits
  const quadrant = (n + quarters) & 3;
  const r2 = r * r;
  let y;
  if (quadrant & 1) {
    const r4 = r2 * r2;
    const low = 1 + r2 * -0.49999999725108224 + r4 * 0.041666623324344516;
    y = low + r4 * r2 * (-0.001388676379437604 + r2 * 2.4390450703564542e-5);
  } else {
    const r3 = r * r2;
    y = r + r3 * -0.16666654943701084 + r3 * r2 * (0.008332178146138854 + r2 * -0.00019517298981385725);
  }
  return fround(quadrant & 2 ? -y : y);
}

export const sinf = (x: number): number => sinePlusQuarters(x, 0);
export const cosf = (x: number): number => sinePlusQuarters(x, 1);
