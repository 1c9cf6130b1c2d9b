//! Pictures of what runs found: bars of ratios, and costs against sizes.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Error;
use crate::daemons::Kind;
use crate::growth::Series;
use crate::report::{Ratio, Row};
use crate::results::{Found, Results};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 900;
const BAR_PX: u32 = 14;
const GAP_PX: u32 = 10;
const FONT: &str = "sans-serif";
/// Apart for the colour-blind too (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

fn colour(index: usize) -> RGBColor {
    COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK)
}

/// Bars of one label, one for each name.
struct Bars {
    label: String,
    ratios: Vec<Option<Ratio>>,
}

/// What a picture of bars says.
struct Chart<'a> {
    title: &'a str,
    names: &'a [&'a str],
    bars: Vec<Bars>,
}

/// Draws what was found.
///
/// # Errors
/// When a picture cannot be written.
pub fn draw(results: &Results, dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    match &results.found {
        Found::Requests { rows } => bars(&requests(rows), &dir.join("requests.svg")),
        Found::Guests { rows } => bars(&guests(rows), &dir.join("guests.svg")),
        Found::Log { rows } => bars(&log(rows), &dir.join("log.svg")),
        Found::Growth { series } => series
            .chunk_by(|one, next| one.plot == next.plot)
            .try_for_each(|curves| lines(curves, dir)),
        Found::Tail { .. } => Ok(()),
    }
}

fn chart<'a>(
    title: &'a str,
    names: &'a [&'a str],
    rows: &[Row],
    ratios: impl Fn(&Row) -> Vec<Option<Ratio>>,
) -> Chart<'a> {
    let bars = |row: &Row| Bars {
        label: match row.depth {
            0 | 1 => row.name.clone(),
            depth => format!("{}, {depth} in flight", row.name),
        },
        ratios: ratios(row),
    };
    Chart {
        title,
        names,
        bars: rows.iter().map(bars).collect(),
    }
}

fn requests(rows: &[Row]) -> Chart<'static> {
    let title = "razorfsd is so many times as fast, request by request";
    let names = &["as virtiofsd on ext4", "as virtiofsd on tmpfs"];
    chart(title, names, rows, |row| {
        let times = |kind: Option<Kind>| row.ratio(kind?, Kind::Razorfs);
        vec![times(row.virtiofsd()), times(row.virtiofsd_tmpfs())]
    })
}

fn guests(rows: &[Row]) -> Chart<'static> {
    let title = "razorfs is so many times as fast, in a guest without KVM";
    let names = &["as virtiofsd", "as 9p", "as virtio-blk with ext4"];
    chart(title, names, rows, |row| {
        let times = |kind: Option<Kind>| row.ratio(kind?, Kind::Razorfs);
        let kinds = [row.virtiofsd(), Some(Kind::NineP), Some(Kind::Block)];
        kinds.map(times).into()
    })
}

fn log(rows: &[Row]) -> Chart<'static> {
    let title = "With the log's writes it takes so many times as long";
    chart(title, &["as without"], rows, |row| {
        vec![row.ratio(Kind::Razorfs, Kind::Unlogged)]
    })
}

fn failed(error: impl std::fmt::Display) -> Error {
    format!("drawing: {error}").into()
}

/// A number of pixels, as both kinds that plotters wants.
fn pixels(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn text(area: &Area<'_>, words: &str, at: (i32, i32), size: u32) -> Result<(), Error> {
    let style = (FONT, size).into_font().color(&BLACK);
    area.draw(&Text::new(words.to_owned(), at, style))
        .map_err(failed)
}

/// The names of colours, in as many lines as they need; where what is below begins.
fn legend(area: &Area<'_>, names: &[&str]) -> Result<i32, Error> {
    let (mut left, mut top) = (20, 35);
    for (index, name) in names.iter().enumerate() {
        let width = 35 + i32::try_from(name.len() * 7).unwrap_or(0);
        if left > 20 && left + width > i32::try_from(WIDTH).unwrap_or(i32::MAX) {
            (left, top) = (20, top + 18);
        }
        let square = [(left, top + 2), (left + 10, top + 12)];
        area.draw(&Rectangle::new(square, colour(index).filled()))
            .map_err(failed)?;
        text(area, name, (left + 15, top), 13)?;
        left += width;
    }
    Ok(top + 22)
}

/// Bars from 1 on to the right where razorfs is ahead, with a line from the least to the most.
fn bars(chart: &Chart<'_>, path: &Path) -> Result<(), Error> {
    let of_each = BAR_PX * pixels(chart.names.len()) + GAP_PX;
    let height = 90 + of_each * pixels(chart.bars.len());
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    text(&area, chart.title, (20, 10), 18)?;
    let top = legend(&area, chart.names)?;
    let all = chart.bars.iter().flat_map(|bars| &bars.ratios).flatten();
    let (least, most) = all.fold((0.5f64, 2.0f64), |(least, most), ratio| {
        (least.min(ratio.least), most.max(ratio.most))
    });
    // In pixels; of whole numbers plotters draws no axis without labels.
    let end = f64::from(of_each * pixels(chart.bars.len()));
    let mut plane = ChartBuilder::on(&area)
        .margin_top(top)
        .margin_right(20)
        .x_label_area_size(30)
        .y_label_area_size(330)
        .build_cartesian_2d((least * 0.9..most * 1.1).log_scale(), end..0.0)
        .map_err(failed)?;
    plane
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|x| format!("{x}"))
        .draw()
        .map_err(failed)?;
    let mut top = f64::from(GAP_PX) / 2.0;
    let bar = f64::from(BAR_PX);
    for bars in &chart.bars {
        let (_, y) = plane.backend_coord(&(1.0, top));
        text(&area, &bars.label, (15, y), 13)?;
        for (index, ratio) in bars.ratios.iter().enumerate() {
            if let Some(ratio) = ratio {
                let body = [(1.0, top), (ratio.median, top + bar - 2.0)];
                let middle = top + bar / 2.0;
                let spread = [(ratio.least, middle), (ratio.most, middle)];
                let shapes = [Rectangle::new(body, colour(index).filled())];
                plane.draw_series(shapes).map_err(failed)?;
                let line = PathElement::new(spread, BLACK);
                plane.draw_series([line]).map_err(failed)?;
            }
            top += bar;
        }
        top += f64::from(GAP_PX);
    }
    let one = PathElement::new([(1.0, 0.0), (1.0, end)], BLACK.stroke_width(2));
    plane.draw_series([one]).map_err(failed)?;
    area.present().map_err(failed)
}

/// What a plot's file is called.
fn file_name(plot: &str) -> String {
    let letters = plot.chars().map(|letter| match letter {
        letter if letter.is_ascii_alphanumeric() => letter.to_ascii_lowercase(),
        _ => '-',
    });
    letters.collect::<String>() + ".svg"
}

/// Costs against sizes, both on logarithmic scales.
fn lines(curves: &[Series], dir: &Path) -> Result<(), Error> {
    let Some(first) = curves.first() else {
        return Ok(());
    };
    let path = dir.join(file_name(&first.plot));
    let area = SVGBackend::new(&path, (WIDTH, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    text(&area, &first.plot, (20, 10), 18)?;
    let names: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
    let top = legend(&area, &names)?;
    // No logarithm of nothing.
    let points = |curve: &Series| -> Vec<(f64, f64)> {
        let at = |(x, y): &(f64, f64)| (x.max(1e-3), y.max(1e-3));
        curve.points.iter().map(at).collect()
    };
    let all: Vec<(f64, f64)> = curves.iter().flat_map(points).collect();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let least = all.iter().map(of).fold(f64::INFINITY, f64::min);
        let most = all.iter().map(of).fold(0.0, f64::max);
        least * 0.9..most * 1.1
    };
    let (x, y) = (range(|point| point.0), range(|point| point.1));
    let mut plane = ChartBuilder::on(&area)
        .margin_top(top)
        .margin_right(30)
        .x_label_area_size(45)
        .y_label_area_size(70)
        .build_cartesian_2d(
            x.log_scale(),
            (y.start.min(y.end / 10.0)..y.end).log_scale(),
        )
        .map_err(failed)?;
    plane
        .configure_mesh()
        .x_desc(first.x.as_str())
        .y_desc(first.y.as_str())
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{y}"))
        .draw()
        .map_err(failed)?;
    for (index, curve) in curves.iter().enumerate() {
        let points = points(curve);
        let line = LineSeries::new(points.iter().copied(), colour(index).stroke_width(2));
        plane.draw_series(line).map_err(failed)?;
        let dots = points
            .iter()
            .map(|at| Circle::new(*at, 3, colour(index).filled()));
        plane.draw_series(dots).map_err(failed)?;
    }
    area.present().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(found: Found, file: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let results = Results {
            about: Default::default(),
            found,
        };
        draw(&results, dir.path()).unwrap();
        std::fs::read_to_string(dir.path().join(file)).unwrap()
    }

    #[test]
    fn bars_have_their_labels() {
        let mut row = Row::new("some work", 16);
        for (kind, wall) in [(Kind::Razorfs, 1.0), (Kind::Virtiofsd(0), 3.0)] {
            row.add(kind, crate::report::Sample { wall, cpu: 0.0 });
        }
        let found = Found::Requests { rows: vec![row] };
        assert!(drawn(found, "requests.svg").contains("some work, 16 in flight"));
    }

    #[test]
    fn curves_of_one_point_or_none_are_drawn() {
        let series = |points: Vec<(f64, f64)>| Series {
            plot: "A plot".into(),
            x: "files".into(),
            y: "us".into(),
            name: "a curve".into(),
            points,
        };
        let series = vec![series(vec![(1000.0, 0.0)]), series(Vec::new())];
        assert!(drawn(Found::Growth { series }, "a-plot.svg").contains("a curve"));
    }
}
