/** A timeline of a few relations in memory for the contract of PageService and for tests of what carries it. */
import { pageSize } from '../../engine/limits.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { controlFileKey } from '../../engine/model/key.ts';
import { type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import type { BlockNumber, RelTag } from '../../engine/model/rel.ts';
import type { Clock } from '../../engine/services.ts';
import { MemoryPageService } from './memory-page-service.ts';

export const sampleTimeline = {
  tenantId: tenantId('11'.repeat(16)),
  timelineId: timelineId('22'.repeat(16)),
};
export const sampleRel: RelTag = { spc: 1663, db: 5, rel: 16384, fork: 0 };

/** A page that says where it belongs and since when. */
export function samplePage(rel: RelTag, block: BlockNumber, lsn: Lsn): Uint8Array {
  const page = new Uint8Array(pageSize);
  const view = new DataView(page.buffer);
  for (let i = 0; i < pageSize; i += 16) {
    view.setUint32(i, rel.rel * 4 + rel.fork);
    view.setUint32(i + 4, block);
    view.setUint32(i + 8, lsn);
    view.setUint32(i + 12, i);
  }
  return page;
}

export interface SamplePages {
  readonly service: MemoryPageService;
  readonly rel: RelTag;
  readonly earlier: Lsn;
  readonly later: Lsn;
  readonly sizes: { readonly earlier: BlockNumber; readonly later: BlockNumber };
  expectedPage(lsn: Lsn, block: BlockNumber): Uint8Array;
}

export function createSamplePages(clock: Clock, laterSize = 20): SamplePages {
  const start = parseLsn('0/1000028');
  const earlier = parseLsn('0/1001000');
  const later = parseLsn('0/1002000');
  const sizes = { earlier: 3, later: laterSize };
  const service = new MemoryPageService(sampleTimeline, start, clock);
  for (const fork of [0, 1] as const) {
    const rel: RelTag = { ...sampleRel, fork };
    service.putSize(earlier, rel, sizes.earlier);
    for (let block = 0; block < sizes.earlier; block++)
      service.putPage(earlier, rel, block, samplePage(rel, block, earlier));
    service.putSize(later, rel, sizes.later);
    for (let block = 0; block < sizes.later; block++) {
      // Block 1 does not change: its older version is the one to be seen at both LSNs.
      if (block !== 1) service.putPage(later, rel, block, samplePage(rel, block, later));
    }
  }
  const control = new Uint8Array(pageSize).fill(7);
  service.putImage(start, controlFileKey, control);
  service.basebackup = {
    lsn: start,
    prevLsn: 0 as Lsn,
    systemIdentifier: 7_000_000_000_000_000_001n,
    files: [
      { path: 'global', bytes: null },
      { path: 'global/pg_control', bytes: control },
      // Larger than a chunk.
      { path: 'pg_xact/0000', bytes: new Uint8Array(700_001).map((_, i) => i % 253) },
    ],
    prewarm: [{ rel: sampleRel, relSize: sizes.later, firstBlock: 0, pages: samplePage(sampleRel, 0, later) }],
  };
  service.advance(later);
  const expectedPage = (lsn: Lsn, block: BlockNumber) =>
    samplePage(sampleRel, block, lsn === earlier || block === 1 ? earlier : later);
  return { service, rel: sampleRel, earlier, later, sizes, expectedPage };
}
