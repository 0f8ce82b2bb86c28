/** The Prometheus text of the servers becomes samples, whatever is in a label; lines that are none are left out. */
import { describe, expect, it } from 'vitest';
import { parseMetrics } from '../../server/console/parse-metrics.ts';
import { Metrics } from '../../server/process/metrics.ts';

describe('samples', () => {
  it('have labels and values as they were written', () => {
    const text = [
      '# HELP a_total text',
      '# TYPE a_total counter',
      'a_total 3',
      'b{kind="getPages",le="+Inf"} 1.5e3',
      String.raw`c{text="a \"quoted\" \\ back, and {brace} \n line"} -1`,
      'd +Inf',
      'e{} 0 1395066363000',
      'not a sample at all',
      'f{broken 1',
      '',
    ].join('\n');
    expect(parseMetrics('pageserver', text)).toEqual([
      { node: 'pageserver', name: 'a_total', labels: {}, value: 3 },
      { node: 'pageserver', name: 'b', labels: { kind: 'getPages', le: '+Inf' }, value: 1500 },
      { node: 'pageserver', name: 'c', labels: { text: 'a "quoted" \\ back, and {brace} \n line' }, value: -1 },
      { node: 'pageserver', name: 'e', labels: {}, value: 0 },
    ]);
  });

  it('are all that the servers write', () => {
    const metrics = new Metrics();
    metrics.counter('a_total', 'what').add(1, { kind: 'say "x"' });
    metrics.histogram('b_seconds', 'how long').observe(0.01, { kind: 'y' });
    metrics.gauge('c', 'how many', () => 7);
    const text = metrics.text();
    const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    expect(parseMetrics('x', text)).toHaveLength(lines.length);
    expect(parseMetrics('x', text)[0]).toEqual({ node: 'x', name: 'a_total', labels: { kind: 'say "x"' }, value: 1 });
  });
});
