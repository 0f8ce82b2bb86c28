/**
 * A safekeeper's storage in memory that is made in microseconds, for thousands of safekeepers: what fills a segment ahead of its WAL takes no room, as in a
 * file with holes.
 */
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { MemorySafekeeperStorage, type TimelineStorage } from '../../engine/safekeeper/storage.ts';

/** No message of the conversations has so much WAL: these are the zeros. */
const fillBytesMin = 64 * 1024;

export class LeanStorage extends MemorySafekeeperStorage {
  override async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    const storage = await super.createTimeline(id);
    const { segments } = storage;
    const write = segments.write.bind(segments);
    segments.write = (name, offset, bytes) => (bytes.length < fillBytesMin ? write(name, offset, bytes) : undefined);
    return storage;
  }
}
