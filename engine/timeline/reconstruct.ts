/**
 * R8 to R9. Values out of chains: the oldest image, then WAL records through Postgres's redo and patches through ingest/patch.ts, in LSN order.
 *
 * Called by the page service, by ingest's reader and by image creation with what `gather` found. Redo is synchronous, so whoever rebuilds
 * many pages lets others run in between: `WorkBudget` says when.
 */
import { assert } from '../assert.ts';
import { isPageliteError, PageliteError } from '../errors.ts';
import { applyPatches } from '../ingest/patch.ts';
import type { ValueChain } from '../layers/value-chain.ts';
import { pageSize, redoRecordsPerTurn } from '../limits.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { formatKey, type KeyPrefix, keyKind } from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { ForkNumber, RelTag } from '../model/rel.ts';
import { type ValueKind, valueKind } from '../model/value.ts';
import type { WalRedo } from '../services.ts';
import type { PageVersions } from './page-versions.ts';

/** Lets the event loop have a turn. */
export type YieldTurn = () => Promise<void>;

export function relOf(prefix: KeyPrefix): RelTag {
  return { spc: prefix.spc, db: prefix.db, rel: prefix.rel, fork: prefix.fork as ForkNumber };
}

/** Counts work since the event loop last had a turn. */
export class WorkBudget {
  readonly #yieldTurn: YieldTurn;
  #records = 0;

  constructor(yieldTurn: YieldTurn) {
    this.#yieldTurn = yieldTurn;
  }

  /** Counts `records`; a promise to await first if it is time to let others run. */
  spend(records: number): Promise<void> | undefined {
    this.#records += records;
    if (this.#records < redoRecordsPerTurn) return;
    this.#records = 0;
    return this.#yieldTurn();
  }
}

/**
 * The value of a chain, null if it does not exist. May be a view of a layer's memory: read only, copy to keep. What had to be rebuilt is
 * kept in `versions` if given. Throws `corrupt`.
 */
export function reconstruct(chain: ValueChain, redo: WalRedo, versions: PageVersions | null): Uint8Array | null {
  const { kinds, values } = chain;
  let at = kinds.length - 1;
  if (at < 0) return null;
  let value: Uint8Array | null = null;
  if (kinds[at] === valueKind.image) {
    if (values[at]!.length > 0) value = values[at]!;
    at--;
  }
  if (at < 0) return value;
  while (at >= 0) {
    const end = isRecord(kinds[at]!) ? runOf(kinds, at, isRecord) : runOf(kinds, at, isPatch);
    value = isRecord(kinds[at]!) ? redoRun(chain, redo, value, at, end) : patchRun(chain, value, at, end);
    at = end - 1;
  }
  if (versions !== null && value !== null) versions.keep(chain.prefix, chain.block, chain.lsns[0]!, value);
  return value;
}

/** `reconstruct`, which waits if redo is being restarted after a record took its instance down. Errors name the timeline. */
export function reconstructWhenReady(
  chain: ValueChain,
  redo: WalRedo,
  versions: PageVersions | null,
  id: TenantTimelineId,
): Uint8Array | null | Promise<Uint8Array | null> {
  try {
    return reconstruct(chain, redo, versions);
  } catch (error) {
    if (!isPageliteError(error, 'unavailable')) throw ofTimeline(error, chain, id);
    return redo.ready().then(() => {
      try {
        return reconstruct(chain, redo, versions);
      } catch (again) {
        throw ofTimeline(again, chain, id);
      }
    });
  }
}

function ofTimeline(error: unknown, chain: ValueChain, id: TenantTimelineId): unknown {
  if (!isPageliteError(error, 'corrupt')) return error;
  return new PageliteError(
    'corrupt',
    `timeline ${id.timelineId}: ${error.message}`,
    { ...error.data, ...id, key: formatKey(chain.prefix, chain.block) },
    { cause: error },
  );
}

const isRecord = (kind: ValueKind) => kind === valueKind.record || kind === valueKind.recordWillInit;
const isPatch = (kind: ValueKind) => kind === valueKind.patch || kind === valueKind.patchWillInit;

/** The index of the newest value of the run that begins at `at` and goes down. */
function runOf(kinds: readonly ValueKind[], at: number, belongs: (kind: ValueKind) => boolean): number {
  let end = at;
  while (end > 0 && belongs(kinds[end - 1]!)) end--;
  return end;
}

function redoRun(chain: ValueChain, redo: WalRedo, value: Uint8Array | null, at: number, end: number): Uint8Array {
  assert(chain.prefix.kind === keyKind.rel, 'only pages of relations have WAL records');
  const lsns: Lsn[] = [];
  const records: Uint8Array[] = [];
  for (let i = at; i >= end; i--) {
    lsns.push(chain.lsns[i]! as Lsn);
    records.push(chain.values[i]!);
  }
  // A page that does not exist yet reads as zeros, for redo too.
  const base = chain.kinds[at] === valueKind.recordWillInit ? null : (value ?? new Uint8Array(pageSize));
  return redo.redoPage({ rel: relOf(chain.prefix), block: chain.block, base, lsns, records });
}

function patchRun(chain: ValueChain, value: Uint8Array | null, at: number, end: number): Uint8Array {
  const patches: Uint8Array[] = [];
  for (let i = at; i >= end; i--) patches.push(chain.values[i]!);
  const base = chain.kinds[at] === valueKind.patchWillInit ? null : value;
  return applyPatches(chain.prefix, chain.block, base, patches);
}
