/**
 * Pushes a branch of this tab's repository to a server, with those ancestors that only the tab has. Called by the storage worker; host-free.
 *
 *   its ancestor is            there it becomes
 *   none (a new database)      a timeline without ancestor, with all its layers
 *   a server timeline          a branch of that timeline: only the branch's own layers travel
 *   pulled from a server       the same: what was pulled does not go back, unless it is not there any more
 *   another branch of the tab  a branch of that one, of which the part below the branch point is pushed first, without a name
 *
 * What was pushed, and where to, is kept beside the timeline (`transfer.json`). A push that was cut off goes on where it was; a push of a branch that
 * has new commits sends the new layers. Under another name it becomes another timeline.
 */
import { must } from '../../engine/assert.ts';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { parseLayerName } from '../../engine/layers/layer-name.ts';
import { newTimelineId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import { invalidLsn, type Lsn } from '../../engine/model/lsn.ts';
import type { Clock, ObjectStore, Random } from '../../engine/services.ts';
import type { IndexPart } from '../../engine/timeline/index-part.ts';
import type { Pageserver } from '../../engine/timeline/pageserver.ts';
import { pushTimeline, type TransferProgress } from '../../engine/transfer/push-timeline.ts';
import {
  loadTransferRecord,
  type RemoteCopy,
  storeTransferRecord,
  type TransferRecord,
} from '../../engine/transfer/transfer-record.ts';
import type { PushServer } from './push-server.ts';

export interface PushOptions {
  /** The tab's, and the store under it. */
  readonly pageserver: Pageserver;
  readonly store: ObjectStore;
  readonly id: TenantTimelineId;
  readonly server: PushServer;
  /** Name on the server. */
  readonly as: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly progress?: (progress: TransferProgress) => void;
  readonly signal?: AbortSignal;
}

export interface PushResult {
  readonly timelineId: TimelineId;
  /** Up to where the server has the branch now. */
  readonly lsn: Lsn;
}

type Ancestor = IndexPart['ancestor'];

/** Rejects `invalid` if the name is another timeline's, `fenced` if the timeline was written on the server since; both say what to do. */
export async function pushBranch(options: PushOptions): Promise<PushResult> {
  const { server, as, signal } = options;
  const push = new Push(options);
  const there = await server.timelineNamed(as, signal);
  const target = await push.targetNamed(as, there);
  const result = await push.send(options.id, target, null);
  if (there === null) await server.nameTimeline(as, result.timelineId, signal);
  await push.remember(options.id, { ...target, lsn: result.lsn });
  return result;
}

class Push {
  readonly #options: PushOptions;

  constructor(options: PushOptions) {
    this.#options = options;
  }

  /** The copy that has this name on the server, or is going to. `there`: whose the name is now. */
  async targetNamed(name: string, there: TimelineId | null): Promise<RemoteCopy> {
    const { id, random, server } = this.#options;
    const before = await this.#copyOf(id);
    // A copy without a name was pushed for the sake of a branch of it. One whose name is gone was deleted there: what is left of it is not ours.
    const hasName = there !== null || before?.lsn === null;
    const isSame = before !== null && (before.name === null || (before.name === name && hasName));
    const timelineId = isSame ? before.id.timelineId : before === null ? id.timelineId : newTimelineId(random);
    if (there !== null && there !== timelineId) {
      const message = `the server has another branch "${name}": push it under another name`;
      throw new PageliteError('invalid', message, { branch: name, timelineId: there });
    }
    const target = { id: { tenantId: server.tenantId, timelineId }, lsn: isSame ? before.lsn : null, name };
    await this.remember(id, target);
    return target;
  }

  /** Sends the timeline, up to `needed` at least or (null) all that is committed. */
  async send(id: TenantTimelineId, target: RemoteCopy, needed: Lsn | null): Promise<PushResult> {
    return this.#options.pageserver.exporting(id, (exported) =>
      this.#sendPart(id, target, needed === null ? exported : partUpTo(exported, needed)),
    );
  }

  async #sendPart(id: TenantTimelineId, target: RemoteCopy, part: IndexPart): Promise<PushResult> {
    const { pageserver, server, clock, progress, signal } = this.#options;
    for (let attempt = 1; ; attempt++) {
      const ancestor = await this.#ancestorThere(id, part);
      try {
        await pushTimeline({
          source: pageserver,
          id,
          part: { ...part, ancestor, layers: layersAfter(part, ancestor) },
          peer: server.peer,
          target: target.id,
          base: target.lsn,
          clock,
          ...(progress && { progress }),
          ...(signal && { signal }),
        });
        return { timelineId: target.id.timelineId, lsn: part.diskConsistentLsn };
      } catch (error) {
        // An ancestor that is not there any more is pushed again, or is in what was pulled.
        const isGone = isPageliteError(error, 'notFound') && error.data.timelineId === ancestor?.timelineId;
        if (!isGone || attempt > 1 || !(await this.#forgetAncestor(id, part))) throw error;
      }
    }
  }

  async remember(id: TenantTimelineId, pushedTo: RemoteCopy | null): Promise<void> {
    const { store } = this.#options;
    await storeTransferRecord(store, id, { ...(await this.#record(id)), pushedTo });
  }

  #record(id: TenantTimelineId): Promise<TransferRecord> {
    return loadTransferRecord(this.#options.store, id);
  }

  /** Where this server has the timeline; null if it was pushed to none, or to another. */
  async #copyOf(id: TenantTimelineId): Promise<RemoteCopy | null> {
    const { pushedTo } = await this.#record(id);
    return pushedTo?.id.tenantId === this.#options.server.tenantId ? pushedTo : null;
  }

  /** The timeline's ancestor on the server, which has all of it up to the branch point when this resolves. */
  async #ancestorThere(id: TenantTimelineId, part: IndexPart): Promise<Ancestor> {
    const { pulledFrom } = await this.#record(id);
    if (pulledFrom !== null && pulledFrom.id.tenantId === this.#options.server.tenantId) {
      return { timelineId: pulledFrom.id.timelineId, lsn: part.startLsn };
    }
    const { ancestor } = part;
    if (ancestor === null || !(await this.#isHere(id, ancestor.timelineId))) return ancestor;
    return this.#pushAncestor({ tenantId: id.tenantId, timelineId: ancestor.timelineId }, ancestor.lsn);
  }

  async #isHere({ tenantId }: TenantTimelineId, timelineId: TimelineId): Promise<boolean> {
    return (await this.#options.pageserver.listTimelines(tenantId)).includes(timelineId);
  }

  async #pushAncestor(id: TenantTimelineId, lsn: Lsn): Promise<Ancestor> {
    const { pageserver, server, random } = this.#options;
    const exported = await pageserver.exportTimeline(id);
    // Nothing of its own is needed: a branch of where it began.
    if (lsn === exported.startLsn) {
      const above = await this.#ancestorThere(id, exported);
      if (above !== null) return above;
    }
    const copy = await this.#copyOf(id);
    if (copy !== null && copy.lsn !== null && copy.lsn >= lsn) return { timelineId: copy.id.timelineId, lsn };
    const ownId = { tenantId: server.tenantId, timelineId: id.timelineId };
    try {
      return await this.#pushPart(id, copy ?? { id: ownId, lsn: null, name: null }, lsn);
    } catch (error) {
      if (!isPageliteError(error, 'fenced')) throw error;
      // Others go on with that copy now, or did so under this id: this branch needs one of its own.
      const fresh = { tenantId: server.tenantId, timelineId: newTimelineId(random) };
      return this.#pushPart(id, { id: fresh, lsn: null, name: null }, lsn);
    }
  }

  async #pushPart(id: TenantTimelineId, copy: RemoteCopy, lsn: Lsn): Promise<Ancestor> {
    await this.remember(id, copy);
    const sent = await this.send(id, copy, lsn);
    await this.remember(id, { ...copy, lsn: sent.lsn });
    return { timelineId: sent.timelineId, lsn };
  }

  /** True if the branch can do without what the server had: its ancestor is here, or everything was pulled. */
  async #forgetAncestor(id: TenantTimelineId, { ancestor }: IndexPart): Promise<boolean> {
    const record = await this.#record(id);
    if (record.pulledFrom !== null) {
      await storeTransferRecord(this.#options.store, id, { ...record, pulledFrom: null });
      return true;
    }
    if (ancestor === null || !(await this.#isHere(id, ancestor.timelineId))) return false;
    await this.remember({ tenantId: id.tenantId, timelineId: ancestor.timelineId }, null);
    return true;
  }
}

/** What somebody needs who reads the timeline at `lsn`: the layers that hold older values. The last of them may reach beyond. */
export function partUpTo(part: IndexPart, lsn: Lsn): IndexPart {
  const descs = part.layers.map((layer) => ({ layer, desc: must(parseLayerName(layer.name)) }));
  let diskConsistentLsn = lsn;
  // A merged layer may reach far beyond: then what others have up to there belongs to it.
  for (;;) {
    const below = descs.filter(({ desc }) => desc.kind === 'delta' && desc.lsnStart <= diskConsistentLsn);
    const end = Math.max(lsn, ...below.map(({ desc }) => desc.lsnEnd - 1)) as Lsn;
    if (end <= diskConsistentLsn) break;
    diskConsistentLsn = end;
  }
  const below = descs.filter(({ desc }) => desc.lsnStart <= diskConsistentLsn);
  return {
    ...part,
    diskConsistentLsn,
    prevRecordLsn: diskConsistentLsn === part.diskConsistentLsn ? part.prevRecordLsn : invalidLsn,
    compactedLsn: Math.min(part.compactedLsn, diskConsistentLsn) as Lsn,
    layers: below.map(({ layer }) => layer),
  };
}

/**
 * A branch has no layers at its start: those of a pulled timeline are its ancestor's pages. Nor has it the image layers that were made since: they do not
 * say what was dropped, which the ancestor has.
 */
function layersAfter(part: IndexPart, ancestor: Ancestor): IndexPart['layers'] {
  if (ancestor === null || part.ancestor !== null) return part.layers;
  return part.layers.filter(({ name }) => must(parseLayerName(name)).kind === 'delta');
}
