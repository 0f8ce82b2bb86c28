/**
 * Points in time as people and PostgreSQL write them, to the microsecond: commits of one millisecond are told apart.
 *
 * A time is a number of milliseconds since the Unix epoch, with a fraction; a JavaScript number holds today's to a quarter of a microsecond.
 */
import { PageliteError } from '../errors.ts';

const shape = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2})?(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d{2}(?::?\d{2})?)?$/i;

/**
 * RFC 3339 (`2026-01-31T12:00:00Z`), what `select now()` prints (`2026-01-31 12:00:00.123456+00`), and both without seconds, time or zone; without
 * a zone it is local time. Throws `invalid`.
 */
export function parseTimestamp(text: string): number {
  const match = shape.exec(text.trim());
  const [, date, minutes = '00:00', seconds = ':00', fraction = '', zone = ''] = match ?? [];
  const wholeMs = match ? Date.parse(`${date}T${minutes}${seconds}${zoneOf(zone)}`) : Number.NaN;
  if (Number.isNaN(wholeMs) || !isRealDate(date!)) {
    const example = '2026-01-31T12:00:00Z or "2026-01-31 12:00:00.123456+00"';
    throw new PageliteError('invalid', `malformed timestamp "${text}": expected for example ${example}`);
  }
  return wholeMs + (fraction === '' ? 0 : Number(`0.${fraction}`) * 1000);
}

/** Date.parse reads 2026-02-30 as a day in March. */
function isRealDate(date: string): boolean {
  return new Date(`${date}T00:00:00Z`).toISOString().startsWith(date);
}

/** `+02`, `+0200` and `+02:00` are the same; nothing stays nothing. */
function zoneOf(zone: string): string {
  if (zone === '' || zone.toUpperCase() === 'Z') return zone.toUpperCase();
  const digits = zone.slice(1).replace(':', '').padEnd(4, '0');
  return `${zone[0]}${digits.slice(0, 2)}:${digits.slice(2)}`;
}

/** RFC 3339 in UTC, with microseconds if there are any. */
export function formatTimestamp(ms: number): string {
  const whole = Math.floor(ms);
  const micros = Math.round((ms - whole) * 1000);
  const text = new Date(whole).toISOString();
  return micros === 0 ? text : text.replace('Z', `${String(micros).padStart(3, '0')}Z`);
}
