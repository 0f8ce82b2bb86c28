/** One message of every kind of the pagestream protocol, with every optional part in both states: for the golden bytes and the fuzzing. */
import { PageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { checkpointKey, relPrefix, slruKind, slruPrefix, twoPhaseKey } from '../../engine/model/key.ts';
import { type Lsn, maxLsn, parseLsn } from '../../engine/model/lsn.ts';
import type { PagestreamRequest, PagestreamResponse } from '../../engine/protocol/pagestream.ts';

const at = { requestLsn: parseLsn('2/16B5A50'), notModifiedSince: parseLsn('0/16B5A50') };
const latest = { requestLsn: maxLsn, notModifiedSince: 0 as Lsn };
const rel = { spc: 1663, db: 5, rel: 16384, fork: 2 } as const;

export const sampleRequests: PagestreamRequest[] = [
  {
    kind: 'hello',
    id: 0,
    version: 2,
    timeline: {
      tenantId: tenantId('0123456789abcdef'.repeat(2)),
      timelineId: timelineId('fedcba9876543210'.repeat(2)),
    },
  },
  { kind: 'getPages', id: 1, at, rel, firstBlock: 131072, blockCount: 16 },
  {
    kind: 'getImages',
    id: 2,
    at: latest,
    keys: [
      { prefix: relPrefix(rel), block: 0xffffffff },
      { prefix: slruPrefix(slruKind.multixactOffsets, 7), block: 31 },
      twoPhaseKey(4294967296 + 742),
      checkpointKey,
    ],
  },
  { kind: 'getRelSize', id: 3, at, rel },
  { kind: 'listRels', id: 4, at: latest, spc: 1664, db: 0 },
  { kind: 'getBasebackup', id: 5, lsn: at.requestLsn },
  { kind: 'getBasebackup', id: 6, lsn: null },
  { kind: 'getStatus', id: 0xffffffff },
  { kind: 'cancel', id: 5 },
  { kind: 'leaseLsn', id: 9, lsn: at.requestLsn },
];

const page = Uint8Array.from({ length: pageSize }, (_, i) => i % 251);

export const sampleResponses: PagestreamResponse[] = [
  { kind: 'welcome', id: 0, version: 1 },
  { kind: 'pages', id: 1, bytes: page },
  { kind: 'images', id: 2, images: [Uint8Array.of(1, 2, 3), null, new Uint8Array(0)] },
  { kind: 'relSize', id: 3, size: 42 },
  { kind: 'relSize', id: 3, size: null },
  {
    kind: 'rels',
    id: 4,
    rels: [
      { rel, size: 7 },
      { rel: { ...rel, fork: 0 }, size: 0 },
    ],
  },
  { kind: 'basebackupChunk', id: 5, offset: 262144, last: false, bytes: Uint8Array.of(9, 8, 7) },
  { kind: 'basebackupChunk', id: 5, offset: 262147, last: true, bytes: new Uint8Array(0) },
  {
    kind: 'status',
    id: 6,
    status: {
      lastRecordLsn: at.requestLsn,
      prevRecordLsn: at.notModifiedSince,
      diskConsistentLsn: parseLsn('1/0'),
      remoteConsistentLsn: parseLsn('0/FFFFFFF8'),
      gcCutoffLsn: parseLsn('0/2000000'),
      startLsn: parseLsn('0/1500028'),
      layerBytes: 123456789,
      ancestor: { timelineId: 'fedcba9876543210'.repeat(2), lsn: parseLsn('0/1500000') },
      stopped: 'unknown record at 2/16B5A50',
    },
  },
  {
    kind: 'status',
    id: 7,
    status: {
      lastRecordLsn: at.requestLsn,
      prevRecordLsn: 0 as Lsn,
      diskConsistentLsn: 0 as Lsn,
      remoteConsistentLsn: 0 as Lsn,
      gcCutoffLsn: 0 as Lsn,
      startLsn: parseLsn('0/1500028'),
      layerBytes: 0,
      ancestor: null,
      stopped: null,
    },
  },
  { kind: 'lease', id: 9, validForMs: 600_000 },
  { kind: 'error', id: 8, error: new PageliteError('corrupt', 'layer damaged', { layer: 'x__y', lsn: '0/16B5A50' }) },
];
