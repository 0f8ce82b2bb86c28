/**
 * Tells a client why PostgreSQL could not read: to PostgreSQL a page that cannot be had is an "I/O error", and its reason is known outside of it. The
 * reason becomes the DETAIL of the error in the answer. Called by compute.ts, and by server/compute for clients of the wire, for answers to statements
 * whose reads failed only.
 *
 *   'E' | i32 length | fields: byte type, text, 0 | 0
 */
import { concatBytes } from '../engine/bytes.ts';
import type { PageliteError } from '../engine/errors.ts';
import type { TenantTimelineId } from '../engine/model/ids.ts';

const errorResponse = 0x45;
const detailField = 0x44;
const headerBytes = 5;

/** Why reads of a compute's storage failed. */
export interface FailedReads {
  /** Since it began. */
  readonly count: number;
  /** Of the last one; null if none has. */
  readonly reason: string | null;
}

/** An error as a reader of `id` is to be told it: with the timeline, which it does not always name. */
export function reasonOf({ message }: PageliteError, { timelineId }: TenantTimelineId): string {
  return message.includes(timelineId) ? message : `${message} (reading timeline ${timelineId})`;
}

/** The answer with `detail` in each of its errors that has none. */
export function withDetail(answer: Uint8Array, detail: string): Uint8Array {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength);
  const field = new Uint8Array([detailField, ...new TextEncoder().encode(detail.replaceAll('\0', '')), 0]);
  const parts: Uint8Array[] = [];
  for (let at = 0; at + headerBytes <= answer.length; ) {
    const end = at + 1 + view.getUint32(at + 1);
    // PostgreSQL's own answers are whole; anything else is passed on as it is.
    if (end <= at + 1 || end > answer.length) return answer;
    const message = answer.subarray(at, end);
    parts.push(...(message[0] === errorResponse && !hasDetail(message) ? extended(message, field) : [message]));
    at = end;
  }
  return concatBytes(parts);
}

/** The fields, `field` behind them, and their end. */
function extended(message: Uint8Array, field: Uint8Array): Uint8Array[] {
  const head = message.slice(0, message.length - 1);
  new DataView(head.buffer).setUint32(1, message.length - 1 + field.length);
  return [head, field, new Uint8Array(1)];
}

function hasDetail(message: Uint8Array): boolean {
  for (let at = headerBytes; at < message.length && message[at] !== 0; ) {
    if (message[at] === detailField) return true;
    const end = message.indexOf(0, at + 1);
    if (end < 0) return false;
    at = end + 1;
  }
  return false;
}
