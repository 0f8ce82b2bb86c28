/** Numbers, times and values of PostgreSQL as people read them. */
import type { BranchInfo } from '../api.ts';

export function formatBytes(bytes: number | null): string {
  if (bytes === null) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function formatMs(ms: number): string {
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export const formatCount = (count: number): string => count.toLocaleString('en-US');

/** In the browser's time zone; `precise`: to the millisecond. */
export function formatTime(date: Date, precise = false): string {
  const pad = (value: number) => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  const time = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return precise ? `${day} ${time}.${String(date.getMilliseconds()).padStart(3, '0')}` : `${day} ${time}`;
}

/**
 * Rows as spreadsheets take them from the clipboard: tabs between values, quoted where one has a tab, a line end or a quote of its own. NULL is
 * empty, an empty text is quoted.
 */
export function tabSeparated(rows: Iterable<readonly (string | null)[]>): string {
  const cell = (value: string | null): string => {
    if (value === null) return '';
    return value === '' || /[\t\r\n"]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  };
  return Array.from(rows, (row) => row.map(cell).join('\t')).join('\n');
}

/** Where a branch is, for people: one of the tab's own is not called local to it. */
export const placeLabel = ({ place }: Pick<BranchInfo, 'place'>): string => (place === 'local' ? 'tab' : place);

/** An LSN `1/16B5A50` as a number. */
export function lsnNumber(lsn: string): number {
  const [high = '0', low = '0'] = lsn.split('/');
  return Number.parseInt(high, 16) * 2 ** 32 + Number.parseInt(low, 16);
}

export function lsnText(lsn: number): string {
  const high = Math.floor(lsn / 2 ** 32);
  return `${high.toString(16)}/${(lsn - high * 2 ** 32).toString(16)}`.toUpperCase();
}
