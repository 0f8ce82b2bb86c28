/** Tenant and timeline ids: 16 random bytes as 32 lower-case hex digits, as in Neon. */
import { PageliteError } from '../errors.ts';
import type { Random } from '../services.ts';

export type TenantId = string & { readonly __brand: 'TenantId' };
export type TimelineId = string & { readonly __brand: 'TimelineId' };
/** A safekeeper's or pageserver's number in its cluster. */
export type NodeId = number & { readonly __brand: 'NodeId' };

/** Names one timeline in the world. */
export interface TenantTimelineId {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
}

const hex32 = /^[0-9a-f]{32}$/;

/** Whether a text has the form of a tenant's or a timeline's id. */
export const isIdText = (text: string): boolean => hex32.test(text);

export function tenantId(text: string): TenantId {
  if (!hex32.test(text)) throw new PageliteError('invalid', `malformed tenant id "${text}": expected 32 hex digits`);
  return text as TenantId;
}

export function timelineId(text: string): TimelineId {
  if (!hex32.test(text)) throw new PageliteError('invalid', `malformed timeline id "${text}": expected 32 hex digits`);
  return text as TimelineId;
}

export function nodeId(value: number): NodeId {
  if (!Number.isSafeInteger(value) || value <= 0) throw new PageliteError('invalid', `malformed node id ${value}`);
  return value as NodeId;
}

function randomHex(random: Random): string {
  const bytes = new Uint8Array(16);
  random.fill(bytes);
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
}

export const newTenantId = (random: Random): TenantId => randomHex(random) as TenantId;
export const newTimelineId = (random: Random): TimelineId => randomHex(random) as TimelineId;

/** A timeline as the key of a map. */
export const timelineKey = ({ tenantId, timelineId }: TenantTimelineId): string => `${tenantId}/${timelineId}`;
