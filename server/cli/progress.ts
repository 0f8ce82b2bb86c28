/**
 * How far a long command is, on standard error: one line that is written over on a terminal, else a line every few seconds, so that a log stays
 * readable.
 */
import type { TransferProgress } from '../../engine/transfer/push-timeline.ts';

/** Standard error, as far as this needs it. */
export interface ProgressOutput {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

const terminalPauseMs = 100;
const logPauseMs = 5_000;

export class ProgressLine {
  readonly #output: ProgressOutput;
  readonly #now: () => number;
  #last = '';
  #lastText = '';
  #toldAtMs = Number.NEGATIVE_INFINITY;

  constructor(output: ProgressOutput, now: () => number = () => performance.now()) {
    this.#output = output;
    this.#now = now;
    // The first line of a log comes when there was time for one.
    if (!output.isTTY) this.#toldAtMs = now();
  }

  readonly tell = (progress: TransferProgress): void => {
    const isNew = progress.text !== this.#lastText;
    const pauseMs = this.#output.isTTY ? terminalPauseMs : logPauseMs;
    if (this.#now() - this.#toldAtMs < pauseMs && !(isNew && this.#output.isTTY)) return;
    this.#toldAtMs = this.#now();
    this.#lastText = progress.text;
    const line = formatProgress(progress);
    if (this.#output.isTTY) this.#output.write(`\r${line.padEnd(this.#last.length)}`);
    else this.#output.write(`${line}\n`);
    this.#last = line;
  };

  /** The line on a terminal goes: what is printed next stands in its place. */
  clear(): void {
    if (this.#output.isTTY && this.#last !== '') this.#output.write(`\r${''.padEnd(this.#last.length)}\r`);
    this.#last = '';
  }
}

export function formatProgress({ text, done, total }: TransferProgress): string {
  if (total === 0) return done === 0 ? text : `${text}: ${formatBytes(done)}`;
  return `${text}: ${formatBytes(done)} of ${formatBytes(total)}, ${Math.floor((done / total) * 100)} %`;
}

/** `12 kB`, `3.4 MB`, `1.2 GB`: powers of 1024, as PostgreSQL's pg_size_pretty. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit < 2 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
