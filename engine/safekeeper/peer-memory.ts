/**
 * What a safekeeper remembers of its peers: the most that each has shown of each timeline. One that comes back with less has a disk that was put back to an
 * older state, and does not know what it promised: it asks its peers before it answers a proposer (Safekeeper.compareWith).
 *
 * In memory: it is lost with the process. Filled by each round of upkeep.ts.
 *
 * Invariant: what is shown is durable, and of a disk that nobody put back it only goes up.
 */
import { type NodeId, timelineKey } from '../model/ids.ts';
import type { Lsn } from '../model/lsn.ts';
import type { PeerTimelineInfo, RecalledTimeline } from '../services.ts';

export class PeerMemory {
  readonly #nodes = new Map<NodeId, ReadonlyMap<string, RecalledTimeline>>();

  /** `timelines` is all that the peer has now. What it does not have any more is forgotten: it may have been deleted. */
  note(node: NodeId, timelines: readonly PeerTimelineInfo[]): void {
    const before = this.#nodes.get(node);
    const now = new Map<string, RecalledTimeline>();
    for (const { id, term, commitLsn } of timelines) {
      const key = timelineKey(id);
      const known = before?.get(key);
      now.set(key, {
        id,
        term: Math.max(term, known?.term ?? 0),
        commitLsn: Math.max(commitLsn, known?.commitLsn ?? 0) as Lsn,
      });
    }
    this.#nodes.set(node, now);
  }

  of(node: NodeId): readonly RecalledTimeline[] {
    return [...(this.#nodes.get(node)?.values() ?? [])];
  }
}
