//! The line protocol (docs/protocol.md) and the trace writer (docs/trace.md) for a program in Rust:
//!
//!     rustc -O lines.rs && harness smoke ./lines
//!
//! Copy this file, and put your model in its first part; the last two stay as they are.
use std::fmt::Write as _;
use std::io::{self, BufRead, Write as _};

// ==== yours: in place of this toy, whose tokens are bytes and whose logits are a formula ====

const PROGRAM: &str = "toy"; // one word
const THREADS: usize = 1;

struct Model {
    vocab_size: usize,
    seq_len: usize,
    state: usize,
}

impl Model {
    /// Load two files, or say why they cannot be used. Paths are bytes.
    fn load(model: &[u8], tokenizer: &[u8]) -> Result<Model, String> {
        if model.is_empty() || tokenizer.is_empty() {
            return Err("no such file".to_string());
        }
        Ok(Model { vocab_size: 259, seq_len: 64, state: 0 })
    }

    /// The ids of a text, which need not be UTF-8.
    fn encode(&self, text: &[u8], bos: bool, eos: bool) -> Vec<usize> {
        let bytes = text.iter().map(|byte| 3 + *byte as usize);
        bos.then(|| 1).into_iter().chain(bytes).chain(eos.then(|| 2)).collect()
    }

    /// What a token adds after the previous one, if there is one; after BOS without one leading space.
    fn decode(&self, previous: Option<usize>, token: usize) -> Vec<u8> {
        let is_dropped = token < 3 || (previous == Some(1) && token == 3 + b' ' as usize);
        if is_dropped { vec![] } else { vec![(token - 3) as u8] }
    }

    /// The logits after a token. Positions come in order; 0 begins a new sequence.
    fn forward(&mut self, token: usize, pos: usize) -> Vec<f32> {
        trace("token", -1, pos, &[token as f32]);
        self.state = (5 * if pos == 0 { 0 } else { self.state } + token) % 1009;
        let logit = |i| ((37 * self.state + 101 * i) % 127) as f32 / 16.0;
        let logits: Vec<f32> = (0..self.vocab_size).map(logit).collect();
        trace("logits", -1, pos, &logits);
        logits
    }
}

// ==== llama2.c's sampler, or yours ====

struct Sampler {
    temperature: f32,
    topp: f32,
    state: u64,
}

impl Sampler {
    fn coin(&mut self) -> f32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let bits = (self.state.wrapping_mul(0x2545F4914F6CDD1D) >> 32) as u32;
        (bits >> 8) as f32 / 16777216.0
    }

    fn sample(&mut self, logits: &[f32]) -> usize {
        let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        if self.temperature == 0.0 {
            return best;
        }
        let most = logits[best] / self.temperature;
        let mut p: Vec<f32> = logits.iter().map(|logit| (logit / self.temperature - most).exp()).collect();
        let sum = p.iter().fold(0.0, |sum, value| sum + value);
        p.iter_mut().for_each(|value| *value /= sum);
        let mut kept: Vec<usize> = (0..p.len()).collect();
        let mut coin = self.coin();
        if self.topp > 0.0 && self.topp < 1.0 {
            kept.sort_by(|&a, &b| p[b].total_cmp(&p[a])); // stable: equals stay in the order of ids
            let mut mass = 0.0;
            let crossing = kept.iter().position(|&id| {
                mass += p[id];
                mass > self.topp
            });
            kept.truncate(crossing.map_or(kept.len(), |i| i + 1)); // the one that crosses belongs to it
            coin *= mass;
        }
        let mut passed = 0.0;
        let found = kept.iter().find(|&&id| {
            passed += p[id];
            passed > coin
        });
        *found.unwrap_or(&kept[kept.len() - 1])
    }
}

// ==== the trace writer, which stays ====

thread_local! {
    static TRACE: Option<std::fs::File> = std::env::var_os("HARNESS_TRACE").map(|path| {
        let mut file = std::fs::File::create(path).expect("HARNESS_TRACE");
        file.write_all(b"harness-trace 1\n").expect("HARNESS_TRACE");
        file
    });
}

/// Record one value; does nothing unless the environment asks for a trace.
fn trace(name: &str, layer: i32, pos: usize, values: &[f32]) {
    TRACE.with(|file| {
        if let Some(mut file) = file.as_ref() {
            let mut record = format!("{} {} {} {}\n", name, layer, pos, values.len()).into_bytes();
            record.extend(little_endian(values));
            file.write_all(&record).expect("HARNESS_TRACE");
        }
    })
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

// ==== the line protocol, which stays ====

fn text(word: &str) -> Result<Vec<u8>, String> {
    let digits = if word == "-" { "" } else { word };
    let pair = |i| digits.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..digits.len()).step_by(2).map(|i| pair(i).ok_or_else(|| "no hexadecimal text".to_string())).collect()
}

fn hexed(bytes: &[u8]) -> String {
    let digits = |hex: &mut String, byte: &u8| write!(hex, "{:02x}", byte).unwrap();
    let mut hex = String::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|byte| digits(&mut hex, byte));
    if hex.is_empty() { "-".to_string() } else { hex }
}

fn listed(ids: &[usize]) -> String {
    let words: Vec<String> = std::iter::once(&ids.len()).chain(ids).map(|id| id.to_string()).collect();
    words.join(" ")
}

fn read<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| "expected a number".to_string())
}

/// What follows `ok`.
fn answer(model: &mut Model, verb: &str, words: &[&str]) -> Result<String, String> {
    let n_before = match verb { "encode" => 3, "logits" => 1, "generate" => 4, _ => 0 };
    if words.len() < n_before {
        return Err("a word is missing".to_string());
    }
    let (before, rest) = words.split_at(n_before);
    if verb == "encode" {
        let (bos, eos): (u8, u8) = (read(before[0])?, read(before[1])?);
        return Ok(format!("{} {} {}", bos, eos, listed(&model.encode(&text(before[2])?, bos != 0, eos != 0))));
    }
    let mut ids = rest.iter().map(|word| read(word)).collect::<Result<Vec<usize>, String>>()?;
    if ids.iter().any(|&id| id >= model.vocab_size) {
        return Err("an id is outside of the vocabulary".to_string());
    }
    if verb == "decode" {
        let begin = (ids.first() == Some(&1)) as usize;
        let piece = |i: usize| model.decode(i.checked_sub(1).map(|before| ids[before]), ids[i]);
        return Ok(format!("{} {}", ids.len(), hexed(&(begin..ids.len()).flat_map(piece).collect::<Vec<u8>>())));
    }
    let n: usize = read(before[0])?;
    if ids.is_empty() || ids.len() > model.seq_len || (verb == "logits" && n >= ids.len()) {
        return Err("more ids than the context, or none".to_string());
    }
    if verb == "logits" {
        let mut rows = Vec::new();
        for (pos, &id) in ids.iter().enumerate() {
            let row = model.forward(id, pos);
            if pos >= n {
                rows.extend(little_endian(&row));
            }
        }
        return Ok(format!("{} {} {} {}", n, ids.len() - n, model.vocab_size, hexed(&rows)));
    }
    let (temperature, topp, seed): (f32, f32, i32) = (read(before[1])?, read(before[2])?, read(before[3])?);
    let mut sampler = Sampler { temperature, topp, state: seed as i64 as u64 };
    let n_given = ids.len();
    for pos in 0..model.seq_len {
        if ids.len() == n_given + n || (ids.len() > n_given && ids[ids.len() - 1] == 1) {
            break;
        }
        let logits = model.forward(ids[pos], pos);
        if pos + 1 >= n_given {
            ids.push(sampler.sample(&logits));
        }
    }
    Ok(format!("{} {} {} {} {}", n, temperature, topp, seed, listed(&ids[n_given..])))
}

fn main() -> io::Result<()> {
    const VERBS: &str = "info load encode decode generate logits quit";
    let mut loaded: Option<Model> = None;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let (number, verb, words) = (words[0], words.get(1).copied().unwrap_or(""), words.get(2..).unwrap_or(&[]));
        let reply = match (verb, loaded.as_mut()) {
            ("info", model) => {
                let (vocab_size, seq_len) = model.map_or((0, 0), |model| (model.vocab_size, model.seq_len));
                Ok(format!("llama-lines 1 {} {} {} {} {}", PROGRAM, vocab_size, seq_len, THREADS, VERBS))
            }
            ("load", _) if words.len() == 2 => {
                loaded = None; // its memory may be needed
                let model = text(words[0]).and_then(|model| Model::load(&model, &text(words[1])?));
                model.map(|model| {
                    let shape = format!("{} {}", model.vocab_size, model.seq_len);
                    loaded = Some(model);
                    shape
                })
            }
            ("quit", _) => Ok(String::new()),
            _ if !VERBS.split(' ').any(|one| one == verb) => Err(String::new()),
            (_, Some(model)) => answer(model, verb, words),
            _ => Err("no model is loaded".to_string()),
        };
        let reply = match reply {
            Ok(words) => format!("{} ok {}", number, words),
            Err(what) if what.is_empty() => format!("{} unsupported", number),
            Err(what) => format!("{} error {}", number, what.escape_default()),
        };
        writeln!(io::stdout(), "{}", reply.trim_end())?;
        if verb == "quit" {
            break;
        }
    }
    Ok(())
}
