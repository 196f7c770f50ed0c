//! Recorded work: what a recording may do, whose memory it is, and that a replay is the work itself.

use epi_engine::Result;
use epi_engine::args;
use epi_engine::backend::cuda::Cuda;
use epi_engine::backend::cuda::device::{Device, Flavour, Grid};
use epi_engine::backend::{Backend, StepState, Tensor};

const N: usize = 300;

/// `total += relu(inp) + relu(inp)` with memory of its own, and the addresses that it was given.
fn work(b: &Cuda, inp: &Tensor<Cuda>, total: &Tensor<Cuda>, seen: &mut Vec<u64>) -> Result<()> {
    let sum = b.zeros(&[N])?;
    seen.push(sum.buffer().address());
    for _ in 0..2 {
        let part = b.relu(inp)?;
        seen.push(part.buffer().address());
        b.add_assign(&sum, &part)?;
    }
    b.add_assign(total, &sum)
}

fn backends() -> impl Iterator<Item = Cuda> {
    [(Flavour::Fast, 0), (Flavour::Check, 1)].into_iter().map(|(flavour, seed)| Cuda::emulator(flavour, seed).unwrap())
}

#[test]
fn a_replay_is_the_work_itself_on_memory_of_its_own() {
    for b in backends() {
        let values: Vec<f32> = (0..N).map(|i| i as f32 - 150.0).collect();
        let (inp, total) = (b.from_f32(&values, &[N]).unwrap(), b.zeros(&[N]).unwrap());
        let [mut first, mut recorded] = [Vec::new(), Vec::new()];
        work(&b, &inp, &total, &mut first).unwrap();
        let before = b.device().usage();
        let graph = b.capture(&mut || work(&b, &inp, &total, &mut recorded)).unwrap().expect("a device that records");
        assert_eq!(b.to_f32(&total).unwrap()[299], 2.0 * 149.0, "recording does nothing");
        if b.name() == "emulator f32" {
            assert_eq!(first, recorded, "the pool has given the same addresses");
            assert_eq!(b.device().usage().peak, before.peak, "no memory was asked for");
        }
        // Others get other memory, however often they ask, and what they hold stays as it is.
        let others: Vec<_> = (0..4).map(|i| b.from_f32(&[i as f32; N], &[N]).unwrap()).collect();
        assert!(others.iter().all(|t| !recorded.contains(&t.buffer().address())));
        for _ in 0..3 {
            b.replay(&graph).unwrap();
        }
        let expected: Vec<f32> = values.iter().map(|v| 8.0 * v.max(0.0)).collect();
        assert_eq!(b.to_f32(&total).unwrap(), expected);
        for (i, other) in others.iter().enumerate() {
            assert!(b.to_f32(other).unwrap().iter().all(|&v| v == i as f32));
        }
        drop((graph, others));
        assert_eq!(b.device().usage().current, before.current, "a graph gives all its memory back");
    }
}

#[test]
fn a_replay_reads_the_step_record_of_its_moment() {
    for b in backends() {
        let (history, step) = (b.zeros(&[4]).unwrap(), b.new_step().unwrap());
        let value = b.from_f32(&[2.5], &[1]).unwrap();
        let mut log = || b.log_value(&history, &value, &step);
        let graph = b.capture(&mut log).unwrap().unwrap();
        for philox_step in [1, 7] {
            b.write_step(&step, &StepState { philox_step, ..StepState::default() }).unwrap();
            b.replay(&graph).unwrap();
        }
        assert_eq!(b.to_f32(&history).unwrap(), [0.0, 2.5, 0.0, 2.5]);
    }
}

#[test]
fn a_recording_refuses_what_a_graph_cannot_hold() {
    for b in backends() {
        let inp = b.from_f32(&[1.0; N], &[N]).unwrap();
        drop(b.relu(&inp).unwrap()); // leaves room for one more tensor of this size
        let error = |work: &mut dyn FnMut() -> Result<()>| b.capture(work).map(|_| ()).unwrap_err().to_string();
        assert!(error(&mut || b.to_f32(&inp).map(|_| ())).contains("a copy to the host during the recording"));
        assert!(error(&mut || b.from_f32(&[0.0; N], &[N]).map(|_| ())).contains("a copy from the host during"));
        assert!(error(&mut || b.synchronize()).contains("waiting during the recording"));
        assert!(error(&mut || b.device().trim()).contains("giving memory back during"));
        assert!(error(&mut || b.capture(&mut || Ok(())).map(|_| ())).contains("another recording"));
        let mut kept: Option<Tensor<Cuda>> = None;
        let mut outlives = || {
            kept = Some(b.relu(&inp)?);
            Ok(())
        };
        assert!(error(&mut outlives).contains("1 tensors outlive it"));
        drop(kept);
        if b.name() == "emulator f32" {
            let message = error(&mut || b.zeros(&[12_345]).map(|_| ()));
            assert!(message.contains("49380 bytes had to be allocated during the recording"), "{message}");
        }
        // And after every refusal the device is as before.
        let total = b.zeros(&[N]).unwrap();
        work(&b, &inp, &total, &mut Vec::new()).unwrap();
        let graph = b.capture(&mut || work(&b, &inp, &total, &mut Vec::new())).unwrap().unwrap();
        b.replay(&graph).unwrap();
        assert!(b.to_f32(&total).unwrap().iter().all(|&v| v == 4.0));
    }
}

#[test]
fn an_error_of_a_replay_names_its_kernel() {
    let device = Device::emulator(Flavour::Check, 0).unwrap();
    let [inp, out] = [0, 1].map(|_| device.alloc(4 * N).unwrap());
    let [from, to] = [inp.address(), out.address()];
    let arguments: &[&[u8]] = args![N as i32, from, to];
    // SAFETY: two memories of N floats.
    let mut work = || unsafe { device.launch("relu_forward", Grid::new([2, 1, 1], 256), arguments) };
    let graph = device.capture(&mut work).unwrap();
    let error = graph.replay().unwrap_err().to_string();
    assert!(error.contains("relu_forward") && error.contains("elementwise.cu"), "{error}");
    device.write(&inp, 0, &[0; 4 * N]).unwrap();
    graph.replay().unwrap();
}
