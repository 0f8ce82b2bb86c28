/**
 * Numbers of a process in Prometheus's text format (`GET /metrics`), as small as that takes: counters, histograms with fixed bounds and
 * gauges that are read when asked for. Names follow Neon's where the number is the same one.
 */
import { readdirSync } from 'node:fs';
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import { packageVersion } from './package-version.ts';

export type Labels = Readonly<Record<string, string | number>>;

/** Counts of the ranges that `bounds` make, one more than bounds and not cumulative. */
export interface HistogramValues {
  readonly bounds: ArrayLike<number>;
  readonly counts: ArrayLike<number>;
  readonly sum: number;
}

/** A number, or one for each set of labels. */
type ReadValues = () => number | Iterable<readonly [Labels, number]>;

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  lines(): Iterable<string>;
}

/** Seconds; from a page that is in memory to a read that waited for its LSN. */
export const secondsBounds = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
] as const;

export class Metrics {
  readonly #metrics = new Map<string, Metric>();
  readonly #beforeText: (() => void)[] = [];

  counter(name: string, help: string): Counter {
    return this.#add(new Counter(name, help));
  }

  histogram(name: string, help: string, bounds: readonly number[] = secondsBounds): Histogram {
    return this.#add(new Histogram(name, help, bounds));
  }

  /** `read` is called for each scrape. */
  gauge(name: string, help: string, read: ReadValues): void {
    this.#add(new ReadMetric(name, help, 'gauge', read));
  }

  /** A number that somebody else counts, and that never goes down. */
  readCounter(name: string, help: string, read: ReadValues): void {
    this.#add(new ReadMetric(name, help, 'counter', read));
  }

  /** A histogram that somebody else keeps. */
  readHistogram(name: string, help: string, read: () => Iterable<readonly [Labels, HistogramValues]>): void {
    this.#add({
      name,
      help,
      type: 'histogram' as const,
      *lines() {
        for (const [labels, values] of read()) yield* histogramLines(name, labels, values);
      },
    });
  }

  /** `look` is called once for each scrape, before anything is read. */
  beforeText(look: () => void): void {
    this.#beforeText.push(look);
  }

  text(): string {
    for (const look of this.#beforeText) look();
    const lines: string[] = [];
    for (const metric of this.#metrics.values()) {
      lines.push(`# HELP ${metric.name} ${metric.help}`, `# TYPE ${metric.name} ${metric.type}`, ...metric.lines());
    }
    return `${lines.join('\n')}\n`;
  }

  #add<M extends Metric>(metric: M): M {
    if (this.#metrics.has(metric.name)) throw new Error(`metric ${metric.name} is registered twice`);
    this.#metrics.set(metric.name, metric);
    return metric;
  }
}

class ReadMetric implements Metric {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge';
  readonly #read: ReadValues;

  constructor(name: string, help: string, type: 'counter' | 'gauge', read: ReadValues) {
    this.name = name;
    this.help = help;
    this.type = type;
    this.#read = read;
  }

  *lines(): Iterable<string> {
    const values = this.#read();
    if (typeof values === 'number') yield `${this.name} ${values}`;
    else for (const [labels, value] of values) yield `${this.name}${formatLabels(labels)} ${value}`;
  }
}

export class Counter implements Metric {
  readonly type = 'counter';
  readonly name: string;
  readonly help: string;
  readonly #values = new Map<string, number>();

  constructor(name: string, help: string) {
    this.name = name;
    this.help = help;
  }

  add(count: number, labels: Labels = {}): void {
    const key = formatLabels(labels);
    this.#values.set(key, (this.#values.get(key) ?? 0) + count);
  }

  *lines(): Iterable<string> {
    for (const [labels, value] of this.#values) yield `${this.name}${labels} ${value}`;
  }
}

export class Histogram implements Metric {
  readonly type = 'histogram';
  readonly name: string;
  readonly help: string;
  readonly #bounds: readonly number[];
  readonly #series = new Map<string, { labels: Labels; counts: Float64Array; sum: number }>();

  constructor(name: string, help: string, bounds: readonly number[]) {
    this.name = name;
    this.help = help;
    this.#bounds = bounds;
  }

  observe(value: number, labels: Labels = {}): void {
    const key = formatLabels(labels);
    let series = this.#series.get(key);
    if (series === undefined) {
      series = { labels, counts: new Float64Array(this.#bounds.length + 1), sum: 0 };
      this.#series.set(key, series);
    }
    let i = 0;
    while (i < this.#bounds.length && value > this.#bounds[i]!) i++;
    series.counts[i]!++;
    series.sum += value;
  }

  *lines(): Iterable<string> {
    for (const { labels, counts, sum } of this.#series.values()) {
      yield* histogramLines(this.name, labels, { bounds: this.#bounds, counts, sum });
    }
  }
}

function* histogramLines(name: string, labels: Labels, { bounds, counts, sum }: HistogramValues): Iterable<string> {
  let total = 0;
  for (let i = 0; i < counts.length; i++) {
    total += counts[i]!;
    yield `${name}_bucket${formatLabels({ ...labels, le: bounds[i] ?? '+Inf' })} ${total}`;
  }
  yield `${name}_sum${formatLabels(labels)} ${sum}`;
  yield `${name}_count${formatLabels(labels)} ${total}`;
}

const eventLoopLookMs = 10;

/** Version, memory, CPU, files and event loop delay of this process. The delay is since the last scrape. */
export function addProcessMetrics(metrics: Metrics): void {
  metrics.gauge('libmetrics_build_info', 'What runs here', () => [
    [{ revision: packageVersion, build_tag: `node-${process.versions.node}` }, 1],
  ]);
  metrics.gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss());
  metrics.gauge('process_open_fds', 'Open files and sockets', () => openFiles());
  metrics.readCounter(
    'process_cpu_seconds_total',
    'User and system CPU time',
    () => process.cpuUsage().user / 1e6 + process.cpuUsage().system / 1e6,
  );
  metrics.gauge(
    'process_start_time_seconds',
    'Start, seconds since the epoch',
    () => Date.now() / 1000 - process.uptime(),
  );
  // Node's histogram holds the time between two looks, of which the resolution itself is no delay.
  const delay: IntervalHistogram = monitorEventLoopDelay({ resolution: eventLoopLookMs });
  delay.enable();
  metrics.gauge('nodejs_eventloop_delay_seconds', 'Event loop delay since the last scrape', () => {
    const read: [Labels, number][] = [0.5, 0.99, 1].map((q) => [
      { quantile: q },
      Math.max(0, delay.percentile(q * 100) / 1e9 - eventLoopLookMs / 1e3),
    ]);
    delay.reset();
    return read;
  });
}

/** Where the system tells: Linux. */
function openFiles(): Iterable<readonly [Labels, number]> {
  try {
    return [[{}, readdirSync('/proc/self/fd').length]];
  } catch {
    return [];
  }
}

function formatLabels(labels: Labels): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}=${JSON.stringify(String(value))}`);
  return parts.length === 0 ? '' : `{${parts.join(',')}}`;
}
