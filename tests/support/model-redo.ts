/**
 * A WalRedo for tests without PGlite: what a record does to a page depends on all of both, so a record too many, too few or out of order shows.
 * Only the first `modelBytes` of a page take part; the LSN stands in the first eight.
 */
import { PageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import { writeLsn } from '../../engine/model/lsn.ts';
import type { RedoRequest, WalRedo } from '../../engine/services.ts';

const modelBytes = 64;

/** A record with this first byte is one that redo refuses. */
export const poisonByte = 0xff;

export class ModelRedo implements WalRedo {
  recordCount = 0;

  redoPage({ rel, block, base, lsns, records }: RedoRequest): Uint8Array {
    const page = base === null ? new Uint8Array(pageSize) : base.slice();
    const view = new DataView(page.buffer);
    for (const [i, record] of records.entries()) {
      if (record[0] === poisonByte) {
        throw new PageliteError('corrupt', `redo refused a record of ${rel.rel}`, { block, lsn: lsns[i]! });
      }
      this.recordCount++;
      let carry = record.length;
      for (let at = 8; at < modelBytes; at++) {
        carry = (carry * 31 + page[at]! + record[at % record.length]! + block) & 0xff;
        page[at] = carry;
      }
      writeLsn(view, 0, lsns[i]!);
    }
    return page;
  }

  async ready(): Promise<void> {}

  async close(): Promise<void> {}
}
