//! Inputs of a case: named host arrays, rounded to f32 so that every backend starts from the same numbers.

use epi_engine::rng::Stream;

/// How the numbers of a case are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Randn,
    Ones,
    Arange,
}

impl Fill {
    pub const ALL: [Fill; 3] = [Fill::Randn, Fill::Ones, Fill::Arange];
}

#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Float(Vec<f64>),
    /// Codes 0..=4.
    Dna(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Input {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Values,
    /// The first dimension counts samples that must not see each other.
    pub per_sample: bool,
}

/// Collects the inputs of one case.
pub struct Inputs {
    fill: Fill,
    rng: Stream,
    list: Vec<Input>,
}

impl Inputs {
    pub fn new(fill: Fill, seed: u64) -> Self {
        Inputs { fill, rng: Stream::new(seed, 0x7E57, 0), list: Vec::new() }
    }
    fn push(mut self, name: &str, shape: &[usize], values: Values) -> Self {
        self.list.push(Input { name: name.into(), shape: shape.to_vec(), values, per_sample: false });
        self
    }
    /// Numbers of the case's kind.
    pub fn float(mut self, name: &str, shape: &[usize]) -> Self {
        let n: usize = shape.iter().product();
        let value = |i: usize, rng: &mut Stream| match self.fill {
            Fill::Randn => rng.normal(),
            Fill::Ones => 1.0,
            Fill::Arange => (i as f64 - n as f64 / 2.0 + 0.3) * 4.0 / n as f64,
        };
        let values = (0..n).map(|i| f64::from(value(i, &mut self.rng) as f32)).collect();
        self.push(name, shape, Values::Float(values))
    }
    /// As [`Inputs::float`], scaled: weights of a map with this many inputs.
    pub fn weight(self, name: &str, shape: &[usize], fan_in: usize) -> Self {
        let mut inputs = self.float(name, shape);
        if let Some(Input { values: Values::Float(values), .. }) = inputs.list.last_mut() {
            values.iter_mut().for_each(|v| *v = f64::from((*v / (fan_in as f64).sqrt()) as f32));
        }
        inputs
    }
    /// Positive numbers, whatever the kind.
    pub fn positive(mut self, name: &str, shape: &[usize]) -> Self {
        let n = shape.iter().product();
        let values = (0..n).map(|_| f64::from(0.5 + self.rng.uniform())).collect();
        self.push(name, shape, Values::Float(values))
    }
    /// Class numbers below `classes`.
    pub fn labels(mut self, name: &str, n: usize, classes: u32) -> Self {
        let values = (0..n).map(|_| f64::from(self.rng.below(classes))).collect();
        self.push(name, &[n], Values::Float(values))
    }
    /// Sequences with single Ns, a leading run of N in the first and a trailing run of G in the last.
    pub fn dna(mut self, name: &str, batch: usize, length: usize) -> Self {
        let mut codes: Vec<u8> = (0..batch * length)
            .map(|i| match self.fill {
                Fill::Randn if self.rng.below(50) == 0 => 4,
                Fill::Randn => self.rng.below(4) as u8,
                Fill::Ones => 0,
                Fill::Arange => (i % 5) as u8,
            })
            .collect();
        if self.fill == Fill::Randn {
            let run = (length / 3).min(30);
            codes[..run].fill(4);
            codes[batch * length - run..].fill(2);
        }
        self.push(name, &[batch, length], Values::Dna(codes))
    }
    /// Marks the input added last.
    pub fn per_sample(mut self) -> Self {
        self.list.last_mut().expect("an input").per_sample = true;
        self
    }
    pub fn build(self) -> Vec<Input> {
        self.list
    }
}

impl Input {
    pub fn float(&self) -> &[f64] {
        match &self.values {
            Values::Float(values) => values,
            Values::Dna(_) => panic!("{} is DNA", self.name),
        }
    }
    pub fn float_mut(&mut self) -> &mut [f64] {
        match &mut self.values {
            Values::Float(values) => values,
            Values::Dna(_) => panic!("{} is DNA", self.name),
        }
    }
    /// The first `n` samples.
    pub fn first_samples(&self, n: usize) -> Input {
        let len = n * self.shape[1..].iter().product::<usize>();
        let values = match &self.values {
            Values::Float(values) => Values::Float(values[..len].to_vec()),
            Values::Dna(codes) => Values::Dna(codes[..len].to_vec()),
        };
        Input { shape: [&[n], &self.shape[1..]].concat(), values, ..self.clone() }
    }
    /// The first sample of `self`, the others of `mates`.
    pub fn with_mates(&self, mates: &Input) -> Input {
        let len = self.shape[1..].iter().product::<usize>();
        let values = match (&self.values, &mates.values) {
            (Values::Float(own), Values::Float(other)) => Values::Float([&own[..len], &other[len..]].concat()),
            (Values::Dna(own), Values::Dna(other)) => Values::Dna([&own[..len], &other[len..]].concat()),
            _ => panic!("{} changed its kind", self.name),
        };
        Input { values, ..self.clone() }
    }
}
