/** The Prometheus text format, as far as the servers here write it: `name{label="value",...} number`. */
import type { MetricSample } from '../../engine/protocol/control-api.ts';

const samplePattern = /^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?$/;
const labelPattern = /([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"/g;
const escapes: Record<string, string> = { n: '\n', '"': '"', '\\': '\\' };

/** Lines that are no samples are left out: comments, and what another version adds. */
export function parseMetrics(node: string, text: string): MetricSample[] {
  return text.split('\n').flatMap((line): MetricSample[] => {
    const match = line.startsWith('#') ? null : samplePattern.exec(line);
    const value = Number(match?.[3]);
    if (!match || Number.isNaN(value)) return [];
    const labels = [...(match[2] ?? '').matchAll(labelPattern)].map(([, name, quoted]) => [
      name!,
      quoted!.replace(/\\(.)/g, (_, escaped: string) => escapes[escaped] ?? escaped),
    ]);
    return [{ node, name: match[1]!, labels: Object.fromEntries(labels), value }];
  });
}
