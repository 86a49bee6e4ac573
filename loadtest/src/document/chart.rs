//! Line charts as SVG, without scripts: colours come from the page's variables, each line has a dash pattern too, and a title and a description
//! stand for the picture.

use std::fmt::Write as _;

/// The size of a chart, in its own units: legible when it is as narrow as a phone.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;
/// The colours of lines, as the page's style names them.
const COLOURS: usize = 4;
/// Dash patterns: with the colours, sixteen lines differ.
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];
/// Points closer than this are one.
const NEAR: f64 = 0.4;

/// The scale of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
}

/// An axis.
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) scale: Scale,
    /// The text of a value.
    pub(super) text: fn(f64) -> String,
    /// Fixed ticks; without any they are chosen.
    pub(super) ticks: Vec<f64>,
}

/// A line.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart.
pub(super) struct Chart {
    /// Unique in the page.
    pub(super) id: &'static str,
    pub(super) title: String,
    /// What the picture shows, in words.
    pub(super) description: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// Moments to mark, on the x axis.
    pub(super) marks: Vec<f64>,
}

/// The colour and the dash pattern of a line, by its number.
fn stroke(number: usize) -> (usize, &'static str) {
    (number % COLOURS, DASHES[(number + number / COLOURS) % DASHES.len()])
}

/// Text that is safe in HTML and in attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// A range of values on an axis, and its place in the picture.
struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Span {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let usable = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let (low, high) = usable
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = match scale {
            _ if low > high => (1.0, 10.0),
            Scale::Linear => (low.min(0.0), if high <= 0.0 { 1.0 } else { high * 1.05 }),
            Scale::Logarithmic => {
                (10_f64.powf(low.log10().floor()), 10_f64.powf((high.log10() - 1e-9).ceil()))
            }
        };
        let high = if high > low { high } else { low * 10.0 + 1.0 };
        Self { scale, low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => {
                (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
            }
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values within the range.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_step((self.high - self.low) / 5.0);
                let first = (self.low / step).ceil() as i64;
                (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= self.high).take(12).collect()
            }
            Scale::Logarithmic => {
                let decades = (self.high.log10() - self.low.log10()).round() as i32;
                let steps: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let first = self.low.log10().round() as i32;
                let all =
                    (0..=decades).flat_map(|n| steps.iter().map(move |step| step * 10_f64.powi(first + n)));
                all.filter(|tick| *tick <= self.high * 1.000_001).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least this.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .iter()
        .map(|factor| factor * power)
        .find(|round| *round >= step * 0.999)
        .unwrap_or(power)
}

impl Chart {
    /// The chart as a figure of HTML, with a legend.
    pub(super) fn render(&self) -> String {
        let Self { id, .. } = self;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Span::new(
            self.x.scale,
            points().map(|point| point.0).chain(self.x.ticks.iter().copied()),
            (LEFT, WIDTH - RIGHT),
        );
        let y = Span::new(self.y.scale, points().map(|point| point.1), (HEIGHT - BOTTOM, TOP));
        let mut svg = format!(
            "<figure class=\"chart\"><h3>{title}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{description}</desc>",
            title = escaped(&self.title),
            description = escaped(&self.description),
        );
        self.grid(&mut svg, &x, &y);
        for mark in &self.marks {
            let at = x.place(*mark);
            let _infallible = write!(
                svg,
                "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>",
                HEIGHT - BOTTOM
            );
        }
        for (number, line) in self.lines.iter().enumerate() {
            let path = path(line, &x, &y, self.y.scale);
            let (colour, dash) = stroke(number);
            let _infallible =
                write!(svg, "<path class=\"line l{colour}\" stroke-dasharray=\"{dash}\" d=\"{path}\"/>");
        }
        svg.push_str("</svg><figcaption>");
        for (number, line) in self.lines.iter().enumerate() {
            let (colour, dash) = stroke(number);
            let _infallible = write!(
                svg,
                "<span class=\"key\"><svg viewBox=\"0 0 30 8\" aria-hidden=\"true\"><path class=\"line l{colour}\" stroke-dasharray=\"{dash}\" d=\"M0 4H30\"/></svg>{}</span>",
                escaped(&line.name)
            );
        }
        svg.push_str("</figcaption></figure>\n");
        svg
    }

    fn grid(&self, svg: &mut String, x: &Span, y: &Span) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in y.ticks() {
            let (at, text) = (y.place(tick), escaped(&(self.y.text)(tick)));
            let _infallible = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        let ticks = if self.x.ticks.is_empty() { x.ticks() } else { self.x.ticks.clone() };
        for tick in ticks {
            let (at, text) = (x.place(tick), escaped(&(self.x.text)(tick)));
            let _infallible = write!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                bottom + 16.0
            );
        }
        let _infallible = write!(
            svg,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"axis\" transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 6.0,
            escaped(&self.x.name),
            f64::midpoint(TOP, bottom),
            escaped(&self.y.name)
        );
    }
}

/// The path of a line. Values that a logarithmic axis cannot show interrupt it.
fn path(line: &Line, x: &Span, y: &Span, scale: Scale) -> String {
    let mut path = String::new();
    let mut last: Option<(f64, f64)> = None;
    let count = line.points.len();
    for (index, (at, value)) in line.points.iter().enumerate() {
        let is_shown = value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        if !is_shown {
            last = None;
            continue;
        }
        let (px, py) = (x.place(*at), y.place(*value));
        let is_near = last.is_some_and(|(lx, ly)| (px - lx).abs() < NEAR && (py - ly).abs() < NEAR);
        if is_near && index + 1 < count {
            continue;
        }
        let command = if last.is_some() { 'L' } else { 'M' };
        let _infallible = write!(path, "{command}{px:.1} {py:.1}");
        last = Some((px, py));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, points: Vec<(f64, f64)>) -> Chart {
        let axis = |name: &str, scale| Axis {
            name: name.to_owned(),
            scale,
            text: |value| format!("{value}"),
            ticks: Vec::new(),
        };
        Chart {
            id: "c",
            title: "a <title> & more".to_owned(),
            description: "\"words\"".to_owned(),
            x: axis("time", Scale::Linear),
            y: axis("latency", scale),
            lines: vec![Line { name: "p50 <b>".to_owned(), points }],
            marks: vec![1.0],
        }
    }

    #[test]
    fn a_chart_is_well_formed_and_escapes_its_texts() {
        let svg = chart(Scale::Logarithmic, vec![(0.0, 10.0), (1.0, 100.0), (2.0, 1_000.0)]).render();
        assert!(svg.contains("<title id=\"c-t\">a &lt;title&gt; &amp; more</title>"), "{svg}");
        assert!(svg.contains("aria-labelledby=\"c-t c-d\"") && svg.contains("&quot;words&quot;"), "{svg}");
        assert!(!svg.contains("<b>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for tag in ["svg", "figure", "text", "title", "desc", "span", "h3", "figcaption"] {
            let (open, close) =
                (svg.matches(&format!("<{tag}")).count(), svg.matches(&format!("</{tag}>")).count());
            assert_eq!(open, close, "{tag}");
        }
        assert!(svg.contains("M62.0 240.0L264.0 127.0") || svg.contains('L'), "{svg}");
    }

    #[test]
    fn sixteen_lines_differ_by_colour_or_dash() {
        let strokes: std::collections::BTreeSet<(usize, &str)> = (0..16).map(stroke).collect();
        assert_eq!(strokes.len(), 16);
    }

    #[test]
    fn points_are_placed_by_their_logarithm() {
        let span = Span::new(Scale::Logarithmic, [10.0, 1_000.0].into_iter(), (0.0, 100.0));
        assert_eq!([10.0, 100.0, 1_000.0].map(|value| span.place(value).round()), [0.0, 50.0, 100.0]);
        assert_eq!(span.ticks(), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0]);
        let linear = Span::new(Scale::Linear, [3.0, 97.0].into_iter(), (0.0, 100.0));
        assert_eq!(linear.ticks(), [0.0, 50.0, 100.0]);
    }

    #[test]
    fn values_that_cannot_be_shown_interrupt_a_line_and_break_nothing() {
        let svg =
            chart(Scale::Logarithmic, vec![(0.0, 5.0), (1.0, 0.0), (2.0, f64::NAN), (3.0, 7.0), (4.0, 9.0)])
                .render();
        let d = svg
            .split("class=\"line l0\" stroke-dasharray=\"\" d=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        assert_eq!((d.matches('M').count(), d.matches('L').count()), (2, 1), "{d}");
        for points in [vec![], vec![(0.0, 0.0)], vec![(f64::NAN, f64::NAN)]] {
            for scale in [Scale::Linear, Scale::Logarithmic] {
                let svg = chart(scale, points.clone()).render();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }
}
