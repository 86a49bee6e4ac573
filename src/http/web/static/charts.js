// Charts by uPlot, in the colours of the theme. Each has its figures as text beside it: a canvas says nothing to a screen reader.
import { compact, h, ms, text } from './dom.js';

const charts = new Set();
const probe = h('span', { class: 'probe', 'aria-hidden': 'true' });

/** The colour of a custom property in the current theme. */
export function ink(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

// Steps of an axis: powers of ten, and some times them. Counts have no parts.
const steps = (from) => Array.from({ length: 16 }, (_, at) => [1, 2, 2.5, 5].map((step) => Number(`${step}e${at + from}`))).flat()
  .filter((step) => from < 0 || Number.isInteger(step));
/** Options of a chart of latencies, in milliseconds. */
export const LATENCY = {
  format: ms,
  tick: (value) => (value === 0 ? '0' : value >= 1000 ? `${Number((value / 1000).toPrecision(6))} s` : `${Number(value.toPrecision(6))} ms`),
  steps_from: -2,
};

const faint = (color, alpha) => color.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);

/**
 * A chart in a figure. `lines`: `{label, ink, fill?, dash?}`; `format`: values as text; `time`: whether x is a time, else `xs` formats it;
 * `span`: seconds that are shown, up to the newest value; `least`: the highest value that the axis has at least; `tick`: values of the axis as text;
 * `steps_from`: the power of ten of its smallest step.
 */
export class Chart {
  constructor(title, lines, { format = compact, tick = format, steps_from = 0, height = 168, span = 120, least = 1, time = true, xs, unit = '' } = {}) {
    Object.assign(this, { lines, format, tick, steps_from, height, span, least, time, xs, data: [[], ...lines.map(() => [])] });
    this.values = lines.map(() => h('b', {}, '–'));
    const keys = lines.map((line, at) => h('span', { class: 'key' },
      h('i', { class: `swatch ink-${line.ink}${line.dash ? ' dashed' : ''}`, 'aria-hidden': 'true' }), line.label, ' ', this.values[at]));
    this.plot = h('div', { class: 'plot', 'aria-hidden': 'true' });
    this.figure = h('figure', { class: 'chart' },
      h('figcaption', {}, h('h3', {}, title, unit && h('small', {}, ` ${unit}`)), h('p', { class: 'keys' }, keys)), this.plot);
    this.width = 0;
    this.observer = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width && width !== this.width) {
        this.width = width;
        if (this.uplot) this.uplot.setSize({ width, height: this.height });
        else this.draw();
      }
    });
    this.observer.observe(this.plot);
    charts.add(this);
  }

  draw() {
    this.uplot?.destroy();
    if (!this.width) return;
    const [muted, grid] = [ink('muted'), ink('hair')];
    const font = '11px Inter, system-ui, sans-serif';
    const axis = { stroke: muted, font, ticks: { show: false }, grid: { stroke: grid, width: 1 } };
    const range = this.time
      ? (_, __, max) => { const end = max ?? Date.now() / 1000; return [end - this.span, end]; }
      : (_, min, max) => [min ?? 0, Math.max(max ?? 1, (min ?? 0) + 5)];
    const series = this.lines.map((line) => {
      const color = ink(line.ink);
      return {
        label: line.label, stroke: color, width: 1.6, spanGaps: false, dash: line.dash, points: { show: line.points ?? false, size: 5, fill: color },
        fill: line.fill ? faint(color, 0.13) : undefined,
      };
    });
    const options = {
      width: this.width, height: this.height, padding: [8, 26, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 6 }, y: false },
      scales: { x: { time: this.time, range }, y: { range: (_, __, max) => [0, Math.max(this.least, (max ?? 0) * 1.12)] } },
      axes: [
        { ...axis, grid: { show: false }, size: 24, gap: 3, space: 64, values: this.time ? times : (_, all) => all.map((value) => (value === null ? '' : this.xs ? this.xs(value) : compact(value))) },
        { ...axis, size: 52, gap: 6, space: 30, incrs: steps(this.steps_from), values: (_, all) => all.map((value) => (value === null ? '' : this.tick(value))) },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [(plot) => this.show(plot.cursor.idx)] },
    };
    this.uplot = new uPlot(options, this.data, this.plot);
  }

  /** Sets `[xs, ...values]`. */
  set(data) {
    this.data = data;
    if (this.uplot) this.uplot.setData(data);
    this.show(this.uplot?.cursor.idx);
  }

  /** Shows the values at an index, or the newest ones. */
  show(index) {
    const at = index ?? this.data[0].length - 1;
    this.values.forEach((value, line) => {
      const own = this.data[line + 1]?.[at];
      text(value, own === null || own === undefined ? '–' : this.format(own));
    });
  }

  remove() {
    charts.delete(this);
    this.observer.disconnect();
    this.uplot?.destroy();
  }
}

function times(_, all) {
  return all.map((at) => new Date(at * 1000).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false }));
}

const redraw = () => charts.forEach((chart) => chart.draw());
document.addEventListener('theme', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
