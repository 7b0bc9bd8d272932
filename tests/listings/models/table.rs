const PROGRAM: &str = "table";
const THREADS: usize = 1;

struct Model {
    vocab_size: usize,
    seq_len: usize,
}

impl Model {
    fn load(model: &[u8], _tokenizer: &[u8]) -> Result<Model, String> {
        let path = String::from_utf8_lossy(model).into_owned();
        std::fs::metadata(path).map_err(|error| error.to_string())?;
        Ok(Model { vocab_size: VOCAB_SIZE, seq_len: SEQ_LEN })
    }

    fn encode(&self, text: &[u8], bos: bool, eos: bool) -> Vec<usize> {
        if text == b"PROMPT" && bos && !eos { vec![IDS] } else { vec![] }
    }

    fn decode(&self, _previous: Option<usize>, _token: usize) -> Vec<u8> {
        vec![]
    }

    fn forward(&mut self, token: usize, pos: usize) -> Vec<f32> {
        trace("token", -1, pos, &[token as f32]);
        let mut logits = vec![0.0; self.vocab_size];
        logits[[NEXT][pos]] = 1.0;
        logits
    }
}

