//! The plots: SVG, drawn from what a run has measured. A plot whose rows were not run keeps its last picture.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

use crate::table::{Table, percentile};

const SIZE: (u32, u32) = (900, 520);
/// Told apart by people who see no red or no green, too.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

type Drawn = Result<(), Box<dyn Error>>;

/// A named line: points from left to right.
type Line = (String, Vec<(f64, f64)>);

/// What a plot of lines shows.
struct Axes<'a> {
    caption: &'a str,
    x: &'a str,
    y: &'a str,
    /// How a place on the x axis is written, and how many of them.
    places: (&'a dyn Fn(&f64) -> String, usize),
    x_range: Range<f64>,
    /// Whether x grows tenfold from mark to mark.
    log_x: bool,
    /// Where the lines leave room for their names.
    names: SeriesLabelPosition,
}

pub fn draw(table: &Table, folder: &Path) -> Drawn {
    std::fs::create_dir_all(folder)?;
    for (plot, caption) in [
        (
            "wake-ups",
            "From the raise to the target running, on two processors: throwto and the bare means",
        ),
        (
            "rungs",
            "From the raise to the target running: each rung beside the raw signal",
        ),
    ] {
        let lines = quantiles(table, plot);
        let x_range = 0.0..3.0;
        let places: (&dyn Fn(&f64) -> String, usize) = (&nines, 4);
        let axes = Axes {
            caption,
            x: "percentile",
            y: "microseconds",
            places,
            x_range,
            log_x: false,
            names: SeriesLabelPosition::LowerRight,
        };
        draw_lines(&folder.join(format!("{plot}.svg")), &axes, &lines)?;
    }
    let count = |x: &f64| format!("{x:.0}");
    for (plot, caption, y, first, names) in [
        (
            "raise",
            "One raise_exc to a running thread, by how many threads are attached",
            "nanoseconds",
            10.0,
            SeriesLabelPosition::MiddleRight,
        ),
        (
            "rate",
            "Raises a second, to the last of the blocked threads running again",
            "raises a second",
            1.0,
            SeriesLabelPosition::LowerLeft,
        ),
    ] {
        let axes = Axes {
            caption,
            x: "threads",
            y,
            places: (&count, 5),
            x_range: first..10_000.0,
            log_x: true,
            names,
        };
        draw_lines(&folder.join(format!("{plot}.svg")), &axes, &series(table, plot))?;
    }
    bars(
        table,
        folder,
        "safepoint",
        "A safepoint with nothing pending, a round of the loop",
    )?;
    bars(
        table,
        folder,
        "region",
        "Entering and leaving a foreign call, with it",
    )
}

/// Percentiles by how many nines they have: 0 is the median's side, 1 is p90, 2 is p99, 3 is p99.9.
fn quantiles(table: &Table, plot: &str) -> Vec<Line> {
    let ours = table.samples.iter().filter(|(of, _, _)| *of == plot);
    ours.map(|(_, name, samples)| {
        let mut samples = samples.clone();
        let points = (0..=120).map(|step| {
            let nines = f64::from(step) / 40.0;
            let p = 100.0 * (1.0 - 10f64.powf(-nines));
            (nines, percentile(&mut samples, p) / 1000.0)
        });
        (name.clone(), points.collect())
    })
    .collect()
}

fn nines(x: &f64) -> String {
    let p = 100.0 * (1.0 - 10f64.powf(-x));
    match *x {
        x if x < 1.0 => format!("p{p:.0}"),
        x if x < 2.0 => format!("p{p:.1}"),
        _ => format!("p{p:.2}"),
    }
}

/// The points of a plot as lines, in the order in which they came.
fn series(table: &Table, plot: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (_, name, x, y) in table.points.iter().filter(|(of, ..)| *of == plot) {
        match lines.iter_mut().find(|(known, _)| known == name) {
            Some((_, points)) => points.push((*x, *y)),
            None => lines.push((name.clone(), vec![(*x, *y)])),
        }
    }
    lines
}

fn draw_lines(path: &Path, axes: &Axes<'_>, lines: &[Line]) -> Drawn {
    let ys = || {
        lines
            .iter()
            .flat_map(|(_, points)| points.iter().map(|(_, y)| *y))
    };
    if ys().next().is_none() {
        return Ok(());
    }
    let y_range = (ys().fold(f64::INFINITY, f64::min) * 0.8..ys().fold(0.0, f64::max) * 1.3).log_scale();
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root);
    chart
        .caption(axes.caption, ("sans-serif", 18))
        .margin(12)
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(70);
    // The two kinds of axis are two types, and everything below them the same.
    macro_rules! fill {
        ($x_range:expr) => {{
            let mut chart = chart.build_cartesian_2d($x_range, y_range)?;
            chart
                .configure_mesh()
                .x_desc(axes.x)
                .y_desc(axes.y)
                .x_labels(axes.places.1)
                .max_light_lines(1)
                .x_label_formatter(axes.places.0)
                .y_label_formatter(&|y| plain(*y))
                .draw()?;
            for (i, (name, points)) in lines.iter().enumerate() {
                let style = COLOURS[i % COLOURS.len()].stroke_width(2);
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), style))?
                    .label(name.as_str())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            }
            chart
                .configure_series_labels()
                .position(axes.names.clone())
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }};
    }
    if axes.log_x {
        fill!(axes.x_range.clone().log_scale());
    } else {
        fill!(axes.x_range.clone());
    }
    root.present()?;
    Ok(())
}

fn plain(y: f64) -> String {
    if y >= 10.0 {
        format!("{y:.0}")
    } else {
        format!("{y:.1}")
    }
}

/// One bar for each point of the plot, with its name and its figure beside it.
fn bars(table: &Table, folder: &Path, plot: &str, caption: &str) -> Drawn {
    let bars = series(table, plot);
    let Some(longest) = bars.iter().map(|(_, points)| points[0].1).reduce(f64::max) else {
        return Ok(());
    };
    let height = 34 * bars.len() as u32 + 90;
    let path = folder.join(format!("{plot}.svg"));
    let root = SVGBackend::new(&path, (SIZE.0, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .build_cartesian_2d(0.0..longest * 1.05, 0.0..bars.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .max_light_lines(1)
        .x_desc("nanoseconds")
        .draw()?;
    for (i, (name, points)) in bars.iter().enumerate() {
        let (bottom, length) = ((bars.len() - 1 - i) as f64, points[0].1);
        let colour = if ["safepoint", "foreign::", "Call::", "run_forced"]
            .iter()
            .any(|ours| name.contains(ours))
            && !name.ends_with("branch")
        {
            COLOURS[1]
        } else {
            COLOURS[7]
        };
        let corners = [(0.0, bottom + 0.15), (length, bottom + 0.85)];
        chart.draw_series([Rectangle::new(corners, colour.mix(0.45).filled())])?;
        let text = format!("{name}: {length:.2}");
        chart.draw_series([Text::new(
            text,
            (longest * 0.01, bottom + 0.68),
            ("sans-serif", 14),
        )])?;
    }
    root.present()?;
    Ok(())
}
