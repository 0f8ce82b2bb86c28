/** Numbers, times and values of PostgreSQL as people read them. */
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

export interface Cell {
  readonly text: string;
  readonly kind: 'null' | 'number' | 'text';
}

/** A value as PGlite's parsers give it. */
export function formatCell(value: unknown): Cell {
  if (value === null || value === undefined) return { text: 'NULL', kind: 'null' };
  if (typeof value === 'number' || typeof value === 'bigint') return { text: String(value), kind: 'number' };
  if (typeof value === 'boolean') return { text: value ? 'true' : 'false', kind: 'text' };
  if (value instanceof Date) return { text: value.toISOString().replace('T', ' ').replace('Z', '+00'), kind: 'text' };
  if (value instanceof Uint8Array) {
    const hex = [...value.subarray(0, 64)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    return { text: `\\x${hex}${value.length > 64 ? `… (${value.length} bytes)` : ''}`, kind: 'text' };
  }
  if (typeof value === 'object') return { text: JSON.stringify(value), kind: 'text' };
  return { text: String(value), kind: 'text' };
}

/** An LSN `1/16B5A50` as a number. */
export function lsnNumber(lsn: string): number {
  const [high = '0', low = '0'] = lsn.split('/');
  return Number.parseInt(high, 16) * 2 ** 32 + Number.parseInt(low, 16);
}

export function lsnText(lsn: number): string {
  const high = Math.floor(lsn / 2 ** 32);
  return `${high.toString(16)}/${(lsn - high * 2 ** 32).toString(16)}`.toUpperCase();
}
