/**
 * Settings of a tenant, under Neon's names (libs/pageserver_api/src/config.rs, TenantConfigToml): what is not set has this program's default.
 *
 *   tenants/<tenant>/config.json      {"version":1,"config":{"pitr_interval":"7days", ...}}\n<CRC32C>\n
 *
 * Sizes are bytes. Durations are written as Neon writes them: "10s", "1h 30m", "7days".
 */
import { PageliteError } from '../errors.ts';
import {
  checkpointTimeoutMs,
  compactionPeriodMs,
  compactionTargetBytes,
  compactionThreshold,
  flushWalDistance,
  gcHorizonBytes,
  gcPeriodMs,
  l0FlushDelayFactor,
  l0FlushStallFactor,
  lsnLeaseLengthMs,
  pitrIntervalMs,
} from '../limits.ts';
import { parseByteSize } from '../model/byte-size.ts';
import type { TenantId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
import { decodeVersioned, encodeChecked, tenantFolder } from './index-part.ts';

export interface TenantConfig {
  /** WAL in memory before it is flushed to layers. */
  readonly checkpoint_distance: number;
  /** A timeline that is not written to is flushed after this. */
  readonly checkpoint_timeout: number;
  /** Size of a layer that compaction writes. */
  readonly compaction_target_size: number;
  /** How often compaction looks for something to do, beside after each flush. 0: never. */
  readonly compaction_period: number;
  /** Flushed layers that are merged together. */
  readonly compaction_threshold: number;
  /** Flushed layers with which ingest is slowed down, and with which it waits until some are merged. 0: never. */
  readonly l0_flush_delay_threshold: number;
  readonly l0_flush_stall_threshold: number;
  /** WAL bytes of history that are kept. */
  readonly gc_horizon: number;
  /** How often garbage is collected. 0: never. */
  readonly gc_period: number;
  /** How long history is kept. */
  readonly pitr_interval: number;
  readonly lsn_lease_length: number;
}

/** A tenant's settings. Thresholds of flushed layers that are not set follow compaction_threshold. */
export function effectiveTenantConfig(defaults: TenantConfig, overrides: Partial<TenantConfig>): TenantConfig {
  const { compaction_threshold: threshold } = overrides;
  if (threshold === undefined) return { ...defaults, ...overrides };
  return {
    ...defaults,
    l0_flush_delay_threshold: l0FlushDelayFactor * threshold,
    l0_flush_stall_threshold: l0FlushStallFactor * threshold,
    ...overrides,
  };
}

/** As it is given: some of the settings, durations as text. */
export type TenantConfigJson = { readonly [name in keyof TenantConfig]?: number | string };

export const tenantConfigDefaults: TenantConfig = {
  checkpoint_distance: flushWalDistance,
  checkpoint_timeout: checkpointTimeoutMs,
  compaction_target_size: compactionTargetBytes,
  compaction_period: compactionPeriodMs,
  compaction_threshold: compactionThreshold,
  l0_flush_delay_threshold: l0FlushDelayFactor * compactionThreshold,
  l0_flush_stall_threshold: l0FlushStallFactor * compactionThreshold,
  gc_horizon: gcHorizonBytes,
  gc_period: gcPeriodMs,
  pitr_interval: pitrIntervalMs,
  lsn_lease_length: lsnLeaseLengthMs,
};

type Kind = { readonly kind: 'duration' | 'bytes' | 'count'; readonly min: number; readonly max: number };
const year = 365 * 24 * 3600_000;
const kinds: { readonly [name in keyof TenantConfig]: Kind } = {
  checkpoint_distance: { kind: 'bytes', min: 64 * 1024, max: 2 ** 40 },
  checkpoint_timeout: { kind: 'duration', min: 0, max: year },
  compaction_target_size: { kind: 'bytes', min: 64 * 1024, max: 2 ** 30 },
  compaction_period: { kind: 'duration', min: 0, max: year },
  compaction_threshold: { kind: 'count', min: 1, max: 100 },
  l0_flush_delay_threshold: { kind: 'count', min: 0, max: 1_000_000 },
  l0_flush_stall_threshold: { kind: 'count', min: 0, max: 1_000_000 },
  gc_horizon: { kind: 'bytes', min: 0, max: 2 ** 52 },
  gc_period: { kind: 'duration', min: 0, max: year },
  pitr_interval: { kind: 'duration', min: 0, max: 100 * year },
  lsn_lease_length: { kind: 'duration', min: 0, max: year },
};
export const tenantConfigNames = Object.keys(kinds) as readonly (keyof TenantConfig)[];

const parsers: { readonly [kind in Kind['kind']]: (text: string) => number | null } = {
  duration: (text) => parseDuration(text),
  bytes: parseByteSize,
  count: (text) => (/^\d+$/.test(text) ? Number(text) : null),
};
const kindText: { readonly [kind in Kind['kind']]: string } = {
  duration: 'a duration such as 10s, 1h or 7days',
  bytes: 'a number of bytes, or a size such as 64MB',
  count: 'a whole number',
};

/** Throws `invalid`, naming the setting. Durations may be numbers of milliseconds, too. */
export function parseTenantConfig(json: object): Partial<TenantConfig> {
  const parsed: { -readonly [name in keyof TenantConfig]?: number } = {};
  for (const [name, value] of Object.entries(json)) {
    if (!Object.hasOwn(kinds, name)) {
      throw new PageliteError('invalid', `${name} is not a setting of a tenant: ${tenantConfigNames.join(', ')}`);
    }
    const key = name as keyof TenantConfig;
    const { kind, min, max } = kinds[key];
    const number = typeof value === 'string' ? parsers[kind](value) : Number(value);
    if (!Number.isSafeInteger(number) || typeof value === 'boolean' || value === '' || value === null) {
      throw new PageliteError('invalid', `${name}: ${JSON.stringify(value)} is not ${kindText[kind]}`);
    }
    if (number! < min || number! > max) {
      const shown = (n: number) => (kind === 'duration' ? formatDuration(n) : String(n));
      throw new PageliteError('invalid', `${name}: ${shown(number!)} is not between ${shown(min)} and ${shown(max)}`);
    }
    parsed[key] = number!;
  }
  return parsed;
}

export function formatTenantConfig(config: Partial<TenantConfig>): TenantConfigJson {
  return Object.fromEntries(
    Object.entries(config).map(([name, value]) => {
      const isDuration = kinds[name as keyof TenantConfig].kind === 'duration';
      return [name, isDuration ? formatDuration(value) : value];
    }),
  );
}

const units: readonly [name: string, ms: number, pattern: RegExp][] = [
  ['days', 24 * 3600_000, /^d(ays?)?$/],
  ['h', 3600_000, /^h(r|rs|ours?)?$/],
  ['m', 60_000, /^m(in|ins|inutes?)?$/],
  ['s', 1000, /^s(ec|ecs|econds?)?$/],
  ['ms', 1, /^(ms|millis|milliseconds?)$/],
  ['weeks', 7 * 24 * 3600_000, /^w(eeks?)?$/],
];

/** Milliseconds; null if the text is not a duration. */
export function parseDuration(text: string): number | null {
  const parts = [...text.trim().matchAll(/(\d+)\s*([a-z]+)\s*/gy)];
  if (parts.length === 0 || parts.map(([whole]) => whole).join('') !== text.trim()) {
    return /^0$/.test(text.trim()) ? 0 : null;
  }
  let sum = 0;
  for (const [, count, unit] of parts) {
    const found = units.find(([, , pattern]) => pattern.test(unit!));
    if (found === undefined) return null;
    sum += Number(count) * found[1];
  }
  return Number.isSafeInteger(sum) ? sum : null;
}

export function formatDuration(ms: number): string {
  if (ms === 0) return '0s';
  let left = ms;
  const parts: string[] = [];
  for (const [name, unitMs] of units.slice(0, 5)) {
    const count = Math.floor(left / unitMs);
    if (count > 0) parts.push(count === 1 && name === 'days' ? '1day' : `${count}${name}`);
    left -= count * unitMs;
  }
  return parts.join(' ');
}

const configVersion = 1;
const configKey = (tenant: TenantId): string => `${tenantFolder(tenant)}config.json`;

/** What is set of a tenant. Throws `corrupt`, naming the object. */
export async function loadTenantConfig(store: ObjectStore, tenant: TenantId): Promise<Partial<TenantConfig>> {
  const file = configKey(tenant);
  const found = await store.get(file);
  if (found === null) return {};
  return parseTenantConfig(decodeVersioned(found.bytes, file, configVersion).config);
}

export async function storeTenantConfig(
  store: ObjectStore,
  tenant: TenantId,
  config: Partial<TenantConfig>,
): Promise<void> {
  const line = JSON.stringify({ version: configVersion, config: formatTenantConfig(config) });
  await store.put(configKey(tenant), encodeChecked(line));
}
