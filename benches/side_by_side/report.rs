//! The results for people: a page of Markdown, and plots, under `target/bench`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use plotters::prelude::*;

use super::goals::Goal;
use super::growth::Curve;
use super::latency::{Latencies, Timed};
use super::load::Ask;
use super::memory::Table;
use super::queue::Jobs;
use super::secure::Secured;
use super::speed::{Row, median};
use super::tail::TailRow;

/// Everything that a run found.
pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
    pub(crate) secured: Option<Secured>,
    pub(crate) clustered: Vec<Row>,
    pub(crate) tiered: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) latencies: Option<Latencies>,
    pub(crate) queue: Vec<Jobs>,
    pub(crate) memory: Option<Table>,
    pub(crate) tails: Vec<TailRow>,
    pub(crate) growth: Vec<Curve>,
}

/// Writes `report.md` and the plots into `dir`, and returns the page.
pub(crate) fn write(results: &Results, dir: &Path) -> String {
    fs::create_dir_all(dir).expect("target can be written to");
    let page = page(results);
    fs::write(dir.join("report.md"), &page).expect("target can be written to");
    if !results.rows.is_empty() {
        bars(&results.rows, &dir.join("cpu.svg")).expect("a plot can be drawn");
    }
    for (number, curve) in results.growth.iter().enumerate() {
        line(curve, &dir.join(format!("growth-{number}.svg"))).expect("a plot can be drawn");
    }
    page
}

fn page(results: &Results) -> String {
    let mut out = format!("# crema beside others\n\n{}\n", machine());
    goals(&mut out, &results.goals);
    for row in &results.rows {
        speed(&mut out, "", row);
    }
    if let Some(secured) = &results.secured {
        secured.rows.iter().for_each(|row| speed(&mut out, "Under TLS: ", row));
        table(&mut out, "Under TLS: connections", &secured.connections);
    }
    results.clustered.iter().for_each(|row| speed(&mut out, "In a cluster of 3: ", row));
    results.tiered.iter().for_each(|row| speed(&mut out, "With tiers: ", row));
    if let Some(latencies) = &results.latencies {
        latency(&mut out, latencies);
    }
    queue(&mut out, &results.queue);
    if let Some(memory) = &results.memory {
        table(&mut out, "Memory, bytes", memory);
    }
    tails(&mut out, &results.tails);
    for curve in &results.growth {
        let columns = curve.columns.join(" | ");
        let _ = writeln!(
            out,
            "\n## {}\n\n| {} | {columns} |\n|--:{}|",
            curve.title,
            curve.size,
            "|--:".repeat(curve.columns.len())
        );
        for (size, figures) in &curve.points {
            let figures: Vec<String> = figures.iter().map(|figure| format!("{figure:.2}")).collect();
            let _ = writeln!(out, "| {size} | {} |", figures.join(" | "));
        }
    }
    out
}

fn table(out: &mut String, title: &str, Table { columns, rows }: &Table) {
    let _ = writeln!(out, "\n## {title}\n\n| | {} |\n|---{}|", columns.join(" | "), "|--:".repeat(columns.len()));
    for (name, figures) in rows {
        let figures: Vec<String> = figures.iter().map(|&figure| bytes(figure)).collect();
        let _ = writeln!(out, "| {name} | {} |", figures.join(" | "));
    }
}

fn bytes(figure: f64) -> String {
    match figure {
        _ if figure.is_nan() => String::new(),
        _ if figure < 10.0 => format!("{figure:.2}"),
        _ => format!("{figure:.0}"),
    }
}

/// Where and when.
fn machine() -> String {
    let first = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let cores = super::cpu::cores_of_machine();
    format!(
        "{}; {model}, {cores} cores; Linux {}; {}.",
        first("date", &["+%Y-%m-%d"]).unwrap_or_default(),
        first("uname", &["-r"]).unwrap_or_default(),
        first("redis-server", &["--version"]).unwrap_or_default(),
    )
}

fn goals(out: &mut String, goals: &[Goal]) {
    if goals.is_empty() {
        return;
    }
    out.push_str("\n## Goals\n\n| | at most | found | |\n|---|--:|--:|---|\n");
    for Goal { text, limit, figure } in goals {
        let met = if figure <= limit { "met" } else { "missed" };
        let _ = writeln!(out, "| {text} | {limit:.2} | {figure:.2} | {met} |");
    }
}

fn speed(out: &mut String, title: &str, row: &Row) {
    let load = &row.load;
    let _ = writeln!(
        out,
        "\n## {title}{}, P={}, c={}, {} B\n\n\
         | | CPU, µs | spread | by Redis's | Redis behind, µs | 1,000/s | p50, µs | p99 | p99.9 |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|",
        load.name(),
        load.depth,
        load.clients,
        load.value
    );
    for cell in &row.cells {
        let least = cell.own.iter().copied().fold(f64::INFINITY, f64::min);
        let most = cell.own.iter().copied().fold(0.0, f64::max);
        let [p50, p99, p999] = cell.latency.each_ref().map(|figures| median(figures));
        let behind = median(&cell.behind);
        let behind = if behind > 0.0 { format!("{behind:.2}") } else { String::new() };
        let _ = writeln!(
            out,
            "| {} | {:.2} | {least:.2}-{most:.2} | {:.2} | {behind} | {:.0} | {p50:.0} | {p99:.0} | {p999:.0} |",
            cell.peer,
            median(&cell.own),
            row.ratio(cell.peer, "Redis").unwrap_or(f64::NAN),
            median(&cell.rate) / 1000.0,
        );
    }
}

fn latency(out: &mut String, found: &Latencies) {
    let changed = median(&found.changed);
    let _ = writeln!(
        out,
        "\n## Latency at {:.0} requests a second on a timetable, 90 % hits, µs\n\n| | p50 | p99 | p99.9 |\n|---|--:|--:|--:|",
        found.rate
    );
    for Timed { peer, calm, stormy } in &found.peers {
        for (when, figures) in [(String::new(), calm), (format!(", {changed:.0} of the keys changed a second"), stormy)]
        {
            let [p50, p99, p999] = figures.each_ref().map(|figures| median(figures));
            let _ = writeln!(out, "| {peer}{when} | {p50:.0} | {p99:.0} | {p999:.0} |");
        }
    }
}

fn queue(out: &mut String, all: &[Jobs]) {
    if all.is_empty() {
        return;
    }
    out.push_str(
        "\n## BullMQ, 10 jobs at a time, each with a read and a write; 1,000/s\n\n\
         | | added | spread | of 5 ms | spread | of no time | spread | CPU of Node for one of these, µs | own | Redis behind |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let thousands = |figures: &[f64]| {
        let (least, most) =
            (figures.iter().copied().fold(f64::INFINITY, f64::min), figures.iter().copied().fold(0.0, f64::max));
        format!("{:.1} | {:.1}-{:.1}", median(figures) / 1000.0, least / 1000.0, most / 1000.0)
    };
    for jobs in all {
        let [node, own, behind] = [&jobs.node, &jobs.own, &jobs.behind].map(|figures| median(figures));
        let behind = if behind > 0.0 { format!("{behind:.0}") } else { String::new() };
        let [added, longer, done] = [&jobs.added, &jobs.longer, &jobs.done].map(|figures| thousands(figures));
        let _ = writeln!(out, "| {} | {added} | {longer} | {done} | {node:.0} | {own:.0} | {behind} |", jobs.peer);
    }
}

fn tails(out: &mut String, all: &[TailRow]) {
    if all.is_empty() {
        return;
    }
    out.push_str(
        "\n## The newest entries of a stream that grows, read 10,000 times a second\n\n\
         | newest | added a second | | reads that reach Redis, % | Redis's CPU a read, µs | own | p50, µs | p99 |\n\
         |--:|--:|---|--:|--:|--:|--:|--:|\n",
    );
    for TailRow { peer, newest, added, reached, behind, own, latency: [p50, p99] } in all {
        let own = if *own > 0.0 { format!("{own:.1}") } else { String::new() };
        let _ =
            writeln!(out, "| {newest} | {added} | {peer} | {reached:.1} | {behind:.1} | {own} | {p50:.0} | {p99:.0} |");
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// CPU a request relative to Redis's, a bar for each peer, a group for each load.
fn bars(rows: &[Row], file: &Path) -> Drawn {
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|row| matches!(row.load.ask, Ask::Get | Ask::GetAny | Ask::Set) && row.load.clients == 50)
        .collect();
    let mut peers: Vec<&str> = Vec::new();
    for cell in rows.iter().flat_map(|row| &row.cells) {
        if !peers.contains(&cell.peer) {
            peers.push(cell.peer);
        }
    }
    let root = SVGBackend::new(file, (1100, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let group = peers.len() as f64 + 1.0;
    let mut chart = ChartBuilder::on(&root)
        .caption("CPU a request by Redis's own", ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(40)
        .build_cartesian_2d(0.0..group * rows.len() as f64, 0.0..3.0)?;
    let label = |x: &f64| {
        let row = rows.get((x / group) as usize);
        row.map_or(String::new(), |row| format!("{:?} P={}, {} B", row.load.ask, row.load.depth, row.load.value))
    };
    chart.configure_mesh().disable_x_mesh().x_labels(rows.len()).x_label_formatter(&label).draw()?;
    for (number, peer) in peers.iter().enumerate() {
        let colour = Palette99::pick(number).mix(0.9);
        let drawn = rows.iter().enumerate().filter_map(|(at, row)| {
            let left = at as f64 * group + number as f64;
            let height = row.ratio(peer, "Redis")?.min(3.0);
            Some(Rectangle::new([(left, 0.0), (left + 0.9, height)], colour.filled()))
        });
        let series = chart.draw_series(drawn)?;
        series.label(*peer).legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

fn line(curve: &Curve, file: &Path) -> Drawn {
    let most = curve.points.iter().flat_map(|(_, figures)| figures).copied().fold(0.0, f64::max);
    let sizes = curve.points.iter().map(|(size, _)| f64::from(*size));
    let (least, largest) = (sizes.clone().fold(f64::INFINITY, f64::min), sizes.fold(0.0, f64::max));
    let root = SVGBackend::new(file, (600, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(curve.title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d((least..largest).log_scale(), 0.0..most * 1.1)?;
    chart.configure_mesh().x_desc(curve.size).draw()?;
    for (number, column) in curve.columns.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let points = curve.points.iter().map(|(size, figures)| (f64::from(*size), figures[number]));
        let series = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        series.label(*column).legend(move |(x, y)| PathElement::new([(x, y), (x + 15, y)], colour));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
