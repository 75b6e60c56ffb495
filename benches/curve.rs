//! How far the curve of hit ratio by size is from what L1 itself does: generated and recorded reads, replayed with the store at each
//! size and with the miniatures. `cargo bench --bench curve [-- --quick] [--trace=FILE]`
//!
//! The miniatures stand for a sample that gets smaller as they fill, or that is small from the beginning, as where there are too many
//! reads (`one in`). What they cost is told below: time for each read of all, and the most memory.
//!
//! Of a file, the second column names the keys, as in `data/twitter_cluster52.csv` of libcachesim 0.3.5 (`PyPI`).

#[path = "../tests/curve/replay.rs"]
mod replay;

use replay::{PROMOTE, Trace};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let (keys, steps) = if quick { (60_000, 1_200_000) } else { (300_000, 6_000_000) };
    let mut traces: Vec<Trace> =
        args.iter().filter_map(|arg| arg.strip_prefix("--trace=").map(|path| Trace::recorded(path.as_ref()))).collect();
    if traces.is_empty() {
        traces.extend([0.6, 0.8, 1.0, 1.2].map(|exponent| Trace::zipf(keys, exponent, steps, (0, 0, 0))));
        traces.push(Trace::zipf(keys, 0.8, steps, (0, 20, 0)));
        traces.push(Trace::zipf(keys, 1.0, steps, (10, 0, 0)));
        traces.push(Trace::zipf(keys, 1.0, steps, (0, 0, steps / 12)));
        traces.push(Trace::round(keys, steps));
    }
    let floors = if quick { [0, 4] } else { [0, 5] };
    println!(
        "Points (hundredths of all reads) by which the miniatures err, at an L1 with room for 1/64 .. all of the keys\n"
    );
    println!(
        "| reads | one in | 1/64 | 1/16 | 1/8 | 1/4 | 1/2 | all | promote 1 | 100 | sampled | asked | ns a read | KiB |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for trace in traces {
        let real: Vec<f64> = trace.sizes.iter().map(|&size| trace.store(size, PROMOTE)).collect();
        let others = [1, 100].map(|one_in| trace.store(trace.sizes[2], one_in));
        let percent = |ratio: &f64| format!("{:.1}", ratio * 100.0);
        let shown: Vec<String> = real.iter().chain(&others).map(percent).collect();
        println!("| {}: L1 itself | | {} | | | | |", trace.name, shown.join(" | "));
        for floor in floors {
            let told = trace.simulate(floor);
            let errors = told.hits.iter().chain(&told.promotions).zip(real.iter().chain(&others));
            let errors: Vec<_> = errors.map(|(told, real)| format!("{:+.2}", (told - real) * 100.0)).collect();
            println!(
                "| | {} | {} | {:.4} | {:.4} | {:.1} | {} |",
                1 << floor,
                errors.join(" | "),
                told.sampled,
                told.asked,
                told.nanos,
                told.memory >> 10
            );
        }
    }
}
