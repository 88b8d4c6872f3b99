//! A run as pictures (SVG).

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::results::{Report, Series};
use super::table::{comparison_of, groups, series_of};
use super::topology::ours::NETPATH;

/// A picture.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Its name, without `.svg`.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The picture itself.
    pub svg: String,
}

const WIDTH: u32 = 900;
const ROW: u32 = 26;
const NAMES: u32 = 330;
const OURS: RGBColor = RGBColor(0, 110, 180);
const OTHERS: RGBColor = RGBColor(165, 170, 178);
const LIMITS: RGBColor = RGBColor(205, 190, 140);
const INK: RGBColor = RGBColor(40, 44, 52);

/// All pictures of a report.
///
/// # Errors
/// The library's.
pub fn all(report: &Report) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    plots.extend(headline(report)?);
    let mut workloads: Vec<(String, String)> = Vec::new();
    for group in groups(report) {
        let key = (group.0, group.1);
        if !workloads.contains(&key) {
            workloads.push(key);
        }
    }
    for (cores, workload) in workloads {
        plots.extend(rates(report, &cores, &workload)?);
    }
    plots.extend(scaling(report)?);
    Ok(plots)
}

/// A bar with its interval.
struct Bar {
    name: String,
    median: f64,
    low: f64,
    high: f64,
    colour: RGBColor,
    text: String,
}

/// Horizontal bars, one a row; a row without a bar is a headline. `mark` is a line across.
fn bars(unit: &str, rows: &[(String, Option<Bar>)], mark: Option<f64>) -> Result<String> {
    let mut svg = String::new();
    let height = ROW * u32::try_from(rows.len())? + 70;
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw_bars(&area, unit, rows, mark).map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_bars(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    unit: &str,
    rows: &[(String, Option<Bar>)],
    mark: Option<f64>,
) -> Drawn {
    area.fill(&WHITE)?;
    let highest = rows
        .iter()
        .filter_map(|(_, bar)| Some(bar.as_ref()?.high))
        .chain(mark)
        .fold(0.0, f64::max);
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(110)
        .x_label_area_size(44)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(0.0..highest.max(f64::MIN_POSITIVE) * 1.02, 0.0..count)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(8)
        .x_desc(unit)
        .x_label_formatter(&|value| short(*value))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13, &INK))
        .draw()?;
    let plain = ("sans-serif", 13).into_font().color(&INK);
    let bold = ("sans-serif", 13)
        .into_font()
        .style(FontStyle::Bold)
        .color(&INK);
    for (i, (name, bar)) in rows.iter().enumerate() {
        let top = count - i as f64;
        let (x, y) = chart.backend_coord(&(0.0, top - 0.5));
        match bar {
            None => area.draw(&Text::new(name.clone(), (16, y - 5), bold.clone()))?,
            Some(bar) => {
                area.draw(&Text::new(bar.name.clone(), (32, y - 6), plain.clone()))?;
                let corners = [(0.0, top - 0.15), (bar.median, top - 0.85)];
                let filled = ShapeStyle::from(&bar.colour).filled();
                chart.draw_series([Rectangle::new(corners, filled)])?;
                let whisker = [(bar.low, top - 0.5), (bar.high, top - 0.5)];
                chart.draw_series([PathElement::new(whisker, INK.stroke_width(2))])?;
                let (end, _) = chart.backend_coord(&(bar.high, top - 0.5));
                let at = (end.max(x) + 6, y - 6);
                area.draw(&Text::new(bar.text.clone(), at, plain.clone()))?;
            }
        }
    }
    if let Some(mark) = mark {
        let line = [(mark, 0.0), (mark, count)];
        chart.draw_series([PathElement::new(line, INK.stroke_width(1))])?;
    }
    area.present()?;
    Ok(())
}

/// The variant that most containers of the world run on.
const INCUMBENT: &str = "docker0+iptables";

/// netpath beside docker0 with iptables, on every path.
fn headline(report: &Report) -> Result<Option<Plot>> {
    let mut rows = Vec::new();
    for group in groups(report) {
        // Those of many ports would make all others invisible; they have a picture.
        if group.2.starts_with("published-") {
            continue;
        }
        let Some(comparison) = comparison_of(report, &group, INCUMBENT) else {
            continue;
        };
        let ratio = comparison.ratio;
        let cores = if group.0 == "one-core" {
            ""
        } else {
            " (two cores)"
        };
        let bar = Bar {
            name: format!("{} {}{cores}", group.1, group.2),
            median: ratio.median,
            low: ratio.low,
            high: ratio.high,
            colour: OURS,
            text: format!("{:.2}", ratio.median),
        };
        rows.push((String::new(), Some(bar)));
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let title = format!("netpath's rate divided by that of {INCUMBENT}, with 95 % intervals");
    Ok(Some(Plot {
        name: "headline".into(),
        svg: bars(&title, &rows, Some(1.0))?,
        title,
    }))
}

fn rates(report: &Report, cores: &str, workload: &str) -> Result<Option<Plot>> {
    let mut rows = Vec::new();
    let mut unit = String::new();
    for group in groups(report) {
        if group.0 != cores || group.1 != workload || group.2.starts_with("published-") {
            continue;
        }
        let bars: Vec<Bar> = series_of(report, &group)
            .into_iter()
            .map(|series| {
                unit.clone_from(&series.unit);
                bar_of(series)
            })
            .collect();
        push_group(&mut rows, group.2.clone(), bars);
    }
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(Plot {
        name: format!("{cores}-{workload}"),
        title: format!("{workload}, {cores}"),
        svg: bars(&unit, &rows, None)?,
    }))
}

fn bar_of(series: &Series) -> Bar {
    let rate = series.rate;
    Bar {
        name: series.variant.clone(),
        median: rate.median,
        low: rate.low,
        high: rate.high,
        colour: match series.variant.as_str() {
            NETPATH => OURS,
            name if is_limit(name) => LIMITS,
            _ => OTHERS,
        },
        text: short(rate.median),
    }
}

/// A figure with about three digits.
fn short(value: f64) -> String {
    match value {
        100_000.0.. => format!("{:.0}k", value / 1000.0),
        1000.0.. => format!("{:.1}k", value / 1000.0),
        100.0.. => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

/// Variants without the work of connecting containers.
fn is_limit(variant: &str) -> bool {
    matches!(variant, "veth" | "loopback" | "host-process" | "veth/twin")
}

fn push_group(rows: &mut Vec<(String, Option<Bar>)>, headline: String, bars: Vec<Bar>) {
    if bars.is_empty() {
        return;
    }
    rows.push((headline, None));
    rows.extend(bars.into_iter().map(|bar| (String::new(), Some(bar))));
}

/// The number of ports and the rate for it.
type Line = Vec<(f64, f64)>;

/// Connections a second by the number of published ports, for the one published last.
fn scaling(report: &Report) -> Result<Option<Plot>> {
    let mut lines: Vec<(String, Line)> = Vec::new();
    for series in &report.series {
        let ports = series
            .path
            .strip_prefix("published-")
            .and_then(|rest| rest.strip_suffix("-last"))
            .and_then(|ports| ports.parse::<f64>().ok());
        let Some(ports) = ports else { continue };
        let point = (ports, series.rate.median);
        match lines.iter_mut().find(|(name, _)| *name == series.variant) {
            Some((_, line)) => line.push(point),
            None => lines.push((series.variant.clone(), vec![point])),
        }
    }
    lines.retain_mut(|(_, line)| {
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        line.len() > 1
    });
    if lines.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, 420)).into_drawing_area();
        draw_lines(&area, &lines).map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    Ok(Some(Plot {
        name: "scaling".into(),
        title: "connections a second to the port that was published last".into(),
        svg,
    }))
}

fn draw_lines(area: &DrawingArea<SVGBackend<'_>, Shift>, lines: &[(String, Line)]) -> Drawn {
    const COLOURS: [RGBColor; 4] = [
        RGBColor(200, 80, 60),
        RGBColor(120, 140, 60),
        RGBColor(140, 90, 160),
        OTHERS,
    ];
    area.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|(_, line)| line);
    let most = points().map(|p| p.0).fold(1.0, f64::max);
    let highest = points().map(|p| p.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(36)
        .x_label_area_size(44)
        .y_label_area_size(80)
        .build_cartesian_2d((1.0..most).log_scale(), 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("published ports")
        .y_desc("connections/s")
        .x_label_formatter(&|ports| format!("{ports:.0}"))
        .y_label_formatter(&|rate| short(*rate))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13, &INK))
        .draw()?;
    let mut others = COLOURS.iter().cycle();
    for (name, line) in lines {
        let colour = match name.as_str() {
            NETPATH => OURS,
            _ => *others.next().context("no colour")?,
        };
        chart
            .draw_series(LineSeries::new(
                line.iter().copied(),
                colour.stroke_width(3),
            ))?
            .label(name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3)));
        let dots = line
            .iter()
            .map(|point| Circle::new(*point, 4, colour.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleLeft)
        .label_font(("sans-serif", 13, &INK))
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    Ok(())
}
