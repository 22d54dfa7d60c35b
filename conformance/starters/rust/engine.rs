// A starter for an engine of CLIP under test, Rust with its standard library. It compiles and answers as it stands:
//
//     rustc -O --edition 2021 engine.rs
//     clipref conformance run exec:./engine --levels describe taps similarity
//
// It is called as `engine VERB CASE_DIR OUT.safetensors`, reads CASE_DIR/case.json and CASE_DIR/inputs.safetensors,
// writes the outputs to OUT.safetensors and exits with 0, or with 3 for what it doesn't do. Your CLIP belongs between
// "yours begins" and "yours ends"; the rest may stay as it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, error, fs, process};

type Result<T> = std::result::Result<T, Box<dyn error::Error>>;

const DECLINED: i32 = 3;

// --- files: JSON, and safetensors ------------------------------------------------------------------------------------

#[derive(Debug)]
enum Json {
    Text(String), // a string; of anything else that is not an array or an object, as it is written
    Items(Vec<Json>),
    Members(BTreeMap<String, Json>),
}

impl Json {
    fn parse(source: &str) -> Result<Json> {
        JsonReader { rest: source.chars().collect(), at: 0 }.value()
    }

    fn get(&self, name: &str) -> Result<&Json> {
        match self {
            Json::Members(members) => members.get(name).ok_or_else(|| format!("no {name} in the JSON").into()),
            _ => Err(format!("no object with {name} in the JSON").into()),
        }
    }

    fn text(&self) -> Result<&str> {
        match self {
            Json::Text(text) => Ok(text),
            other => Err(format!("{other:?} where a text or a number was expected").into()),
        }
    }

    fn size(&self) -> Result<usize> {
        Ok(self.text()?.parse()?)
    }

    fn sizes(&self) -> Result<Vec<usize>> {
        match self {
            Json::Items(items) => items.iter().map(Json::size).collect(),
            other => Err(format!("{other:?} where a list was expected").into()),
        }
    }
}

struct JsonReader {
    rest: Vec<char>,
    at: usize,
}

impl JsonReader {
    fn value(&mut self) -> Result<Json> {
        match self.peek()? {
            '{' => {
                let mut members = BTreeMap::new();
                while self.another('{', '}')? {
                    let name = self.string()?;
                    self.expect(':')?;
                    members.insert(name, self.value()?);
                }
                Ok(Json::Members(members))
            }
            '[' => {
                let mut items = Vec::new();
                while self.another('[', ']')? {
                    items.push(self.value()?);
                }
                Ok(Json::Items(items))
            }
            '"' => Ok(Json::Text(self.string()?)),
            _ => {
                let start = self.at;
                while self.at < self.rest.len() && !",]} \t\r\n".contains(self.rest[self.at]) {
                    self.at += 1;
                }
                Ok(Json::Text(self.rest[start..self.at].iter().collect()))
            }
        }
    }

    fn peek(&mut self) -> Result<char> {
        while self.rest.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.rest.get(self.at).copied().ok_or_else(|| "JSON ends too early".into())
    }

    fn expect(&mut self, wanted: char) -> Result<()> {
        let found = self.peek()?;
        self.at += 1;
        if found == wanted { Ok(()) } else { Err(format!("{found} in JSON where {wanted} was expected").into()) }
    }

    // Whether another element follows; steps over the bracket or the comma before it, or over the closing bracket.
    fn another(&mut self, open: char, close: char) -> Result<bool> {
        let found = self.peek()?;
        self.at += 1;
        if found == open && self.peek()? == close {
            self.at += 1;
            return Ok(false);
        }
        match found {
            c if c == open || c == ',' => Ok(true),
            c if c == close => Ok(false),
            c => Err(format!("{c} in JSON where a comma was expected").into()),
        }
    }

    fn string(&mut self) -> Result<String> {
        self.expect('"')?;
        let mut text = String::new();
        loop {
            let c = *self.rest.get(self.at).ok_or("JSON ends too early")?;
            self.at += 1;
            match c {
                '"' => return Ok(text),
                '\\' => {
                    // Of escapes, paths and tensor names have only \" and \\.
                    text.push(*self.rest.get(self.at).ok_or("JSON ends too early")?);
                    self.at += 1;
                }
                c => text.push(c),
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>, // row by row; whole numbers are exact up to 2^24, which no token id comes near
    whole: bool,    // written as int64 instead of float32
}

impl Tensor {
    fn new(shape: &[usize], data: Vec<f32>) -> Tensor {
        Tensor { shape: shape.to_vec(), data, whole: false }
    }

    fn zeros(shape: &[usize]) -> Tensor {
        Tensor::new(shape, vec![0.0; shape.iter().product()])
    }

    // A row along the last axis.
    fn row(&self, i: usize) -> &[f32] {
        self.data.chunks(self.shape[self.shape.len() - 1]).nth(i).expect("a row that there is")
    }
}

type Tensors = BTreeMap<String, Tensor>;

fn tensor<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a Tensor> {
    tensors.get(name).ok_or_else(|| format!("no tensor {name}").into())
}

fn half(bits: u16) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let value = if exponent == 0 { mantissa * 2f32.powi(-24) } else { (1024.0 + mantissa) * 2f32.powi(exponent - 25) };
    if bits >> 15 == 1 { -value } else { value }
}

// A safetensors file is the length of a JSON header, in 8 bytes, the header, and the bytes of the tensors.
fn read_tensors(path: &Path) -> Result<Tensors> {
    let file = fs::read(path).map_err(|problem| format!("{}: {problem}", path.display()))?;
    let start = 8 + u64::from_le_bytes(file[..8].try_into()?) as usize;
    let Json::Members(header) = Json::parse(std::str::from_utf8(&file[8..start])?)? else {
        return Err(format!("{} has no header", path.display()).into());
    };
    let mut tensors = Tensors::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let place = entry.get("data_offsets")?.sizes()?;
        let bytes = &file[start + place[0]..start + place[1]];
        let data = match entry.get("dtype")?.text()? {
            "F32" => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            "F16" => bytes.chunks(2).map(|b| half(u16::from_le_bytes(b.try_into().unwrap()))).collect(),
            "I64" => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
            "U8" => bytes.iter().map(|&b| f32::from(b)).collect(),
            kind => return Err(format!("{name} is {kind}").into()),
        };
        tensors.insert(name.clone(), Tensor::new(&entry.get("shape")?.sizes()?, data));
    }
    Ok(tensors)
}

fn write_tensors(path: &Path, tensors: &Tensors) -> Result<()> {
    let (mut entries, mut bytes) = (Vec::new(), Vec::new());
    for (name, tensor) in tensors {
        let (begin, kind) = (bytes.len(), if tensor.whole { "I64" } else { "F32" });
        for &x in &tensor.data {
            if tensor.whole {
                bytes.extend((x as i64).to_le_bytes());
            } else {
                bytes.extend(x.to_le_bytes());
            }
        }
        let (shape, end) = (&tensor.shape, bytes.len());
        entries.push(format!(r#""{name}":{{"dtype":"{kind}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#));
    }
    let header = format!("{{{}}}", entries.join(","));
    Ok(fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes].concat())?)
}

// --- yours begins ----------------------------------------------------------------------------------------------------

// Preprocessed pixels [N, 3, R, R] -> embeddings [N, E], not normalised; None as long as it isn't done. `config` is
// "vision" of config.json, `w` the tensors of model.safetensors by name; `taps` are activations by the names of their
// modules in the checkpoint, which trace_image answers with.
fn encode_image(pixels: &Tensor, w: &Tensors, config: &Json, taps: &mut Tensors) -> Result<Option<Tensor>> {
    // A first activation, to show how a trace is asked: the patches [N, G*G, W], row by row from the top left.
    let kernel = tensor(w, "visual.conv1.weight")?; // [W, 3, P, P]
    let (n, side, width) = (pixels.shape[0], pixels.shape[3], kernel.shape[0]);
    let patch = config.get("patch_size")?.size()?;
    let grid = side / patch;
    let mut patches = Tensor::zeros(&[n, grid * grid, width]);
    for (to, sum) in patches.data.iter_mut().enumerate() {
        let (i, t, c) = (to / width / (grid * grid), to / width % (grid * grid), to % width);
        for (k, weight) in kernel.data.chunks(3 * patch * patch).nth(c).unwrap().iter().enumerate() {
            let (y, x) = (t / grid * patch + k / patch % patch, t % grid * patch + k % patch);
            *sum += weight * pixels.data[((i * 3 + k / (patch * patch)) * side + y) * side + x];
        }
    }
    taps.insert("visual.conv1".into(), patches);
    Ok(None) // TODO: your image tower. Return its embeddings, and insert into `taps` what it computes on the way.
}

// Ids [N, T], padded with 0 -> embeddings [N, E], of the first end of text, whose id is vocab_size - 1.
fn encode_text(ids: &Tensor, w: &Tensors, config: &Json, taps: &mut Tensors) -> Result<Option<Tensor>> {
    let embedding = tensor(w, "token_embedding.weight")?; // [V, W]
    let data = ids.data.iter().flat_map(|&id| embedding.row(id as usize)).copied().collect();
    let shape = [ids.shape[0], ids.shape[1], config.get("width")?.size()?];
    taps.insert("token_embedding".into(), Tensor::new(&shape, data));
    Ok(None) // TODO: your text tower.
}

// --- yours ends ------------------------------------------------------------------------------------------------------

fn unit_vectors(x: &Tensor) -> Vec<Vec<f32>> {
    let rows = x.data.chunks(x.shape[1]);
    rows.map(|row| (row, row.iter().map(|v| v * v).sum::<f32>().sqrt()))
        .map(|(row, length)| row.iter().map(|v| v / length).collect())
        .collect()
}

fn similarity(inputs: &Tensors) -> Result<Tensors> {
    let (image, text) = (unit_vectors(tensor(inputs, "image")?), unit_vectors(tensor(inputs, "text")?));
    let scale = tensor(inputs, "logit_scale")?.data[0].exp();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let cosines: Vec<f32> = image.iter().flat_map(|a| text.iter().map(move |b| dot(a, b))).collect();
    let (shape, logits) = ([image.len(), text.len()], cosines.iter().map(|x| x * scale).collect());
    Ok(Tensors::from([
        ("cosines".into(), Tensor::new(&shape, cosines)),
        ("logits".into(), Tensor::new(&shape, logits)),
    ]))
}

fn describe(config: &Json) -> Result<Tensors> {
    let whole = |x: &Json| -> Result<Tensor> { Ok(Tensor { whole: true, ..Tensor::new(&[], vec![x.size()? as f32]) }) };
    let (vision, text) = (config.get("vision")?, config.get("text")?);
    Ok(Tensors::from([
        ("embed_dim".into(), whole(config.get("embed_dim")?)?),
        ("resolution".into(), whole(vision.get("resolution")?)?),
        ("context_length".into(), whole(text.get("context_length")?)?),
        ("vocab_size".into(), whole(text.get("vocab_size")?)?),
    ]))
}

// The outputs of a verb by name. None for what this engine doesn't do: ResNets; tokenize, preprocess, operation,
// embed_image, embed_text and compare.
fn answer(verb: &str, folder: &Path) -> Result<Option<Tensors>> {
    let (what, tower) = verb.split_once('_').unwrap_or((verb, ""));
    if !["describe", "similarity", "encode", "trace"].contains(&what) {
        return Ok(None);
    }
    let inputs = read_tensors(&folder.join("inputs.safetensors"))?;
    if verb == "similarity" {
        return Ok(Some(similarity(&inputs)?));
    }
    let case = Json::parse(&fs::read_to_string(folder.join("case.json"))?)?;
    let checkpoint = folder.join(case.get("checkpoint")?.text()?); // which is absolute, or relative to the case
    let config = Json::parse(&fs::read_to_string(checkpoint.join("config.json"))?)?;
    if verb == "describe" {
        return Ok(Some(describe(&config)?));
    }
    let vision = config.get("vision")?;
    if tower == "image" && vision.get("kind")?.text()? != "vit" {
        return Ok(None);
    }
    let (w, mut taps) = (read_tensors(&checkpoint.join("model.safetensors"))?, Tensors::new());
    let embeddings = if tower == "image" {
        encode_image(tensor(&inputs, "pixels")?, &w, vision, &mut taps)?
    } else {
        encode_text(tensor(&inputs, "ids")?, &w, config.get("text")?, &mut taps)?
    };
    let mut outputs = if what == "trace" { taps } else { Tensors::new() };
    outputs.extend(embeddings.map(|x| ("embeddings".to_string(), x)));
    Ok((!outputs.is_empty()).then_some(outputs))
}

fn run() -> Result<i32> {
    let arguments: Vec<String> = env::args().collect();
    let [_, verb, folder, out] = arguments.as_slice() else {
        return Err("usage: engine VERB CASE_DIR OUT.safetensors".into());
    };
    match answer(verb, Path::new(folder))? {
        Some(outputs) => write_tensors(Path::new(out), &outputs).map(|()| 0),
        None => {
            eprintln!("declined: {verb}");
            Ok(DECLINED)
        }
    }
}

fn main() {
    process::exit(run().unwrap_or_else(|problem| {
        eprintln!("{problem}");
        1
    }));
}
