/** Must hold: the text is what Prometheus reads: HELP and TYPE once, labels quoted and escaped, histogram buckets cumulative up to +Inf. */
import { expect, it } from 'vitest';
import { addProcessMetrics, Metrics } from '../../server/process/metrics.ts';

it('writes counters, gauges and histograms', () => {
  const metrics = new Metrics();
  const served = metrics.counter('requests_total', 'Requests');
  served.add(2, { kind: 'getPages' });
  served.add(1, { kind: 'a "quoted"\nname' });
  served.add(3, { kind: 'getPages' });
  metrics.gauge('timelines', 'Timelines', () => 7);
  metrics.gauge('lag', 'Lag', () => [
    [{ timeline: 'a' }, 1],
    [{ timeline: 'b' }, 2],
  ]);
  const seconds = metrics.histogram('seconds', 'Seconds', [0.1, 1]);
  for (const value of [0.05, 0.1, 0.5, 30]) seconds.observe(value);
  expect(metrics.text().split('\n')).toEqual([
    '# HELP requests_total Requests',
    '# TYPE requests_total counter',
    'requests_total{kind="getPages"} 5',
    'requests_total{kind="a \\"quoted\\"\\nname"} 1',
    '# HELP timelines Timelines',
    '# TYPE timelines gauge',
    'timelines 7',
    '# HELP lag Lag',
    '# TYPE lag gauge',
    'lag{timeline="a"} 1',
    'lag{timeline="b"} 2',
    '# HELP seconds Seconds',
    '# TYPE seconds histogram',
    'seconds_bucket{le="0.1"} 2',
    'seconds_bucket{le="1"} 3',
    'seconds_bucket{le="+Inf"} 4',
    'seconds_sum 30.65',
    'seconds_count 4',
    '',
  ]);
});

it('has the numbers of the process', () => {
  const metrics = new Metrics();
  addProcessMetrics(metrics);
  const text = metrics.text();
  expect(text).toMatch(/^process_resident_memory_bytes \d+$/m);
  expect(text).toMatch(/^nodejs_eventloop_delay_seconds\{quantile="0.99"\} [\d.e-]+$/m);
});
