/**
 * A safekeeper's storage in memory that is made in microseconds, for thousands of safekeepers: what fills a segment ahead of its WAL takes no room, as in a
 * file with holes. What lies in it can be read beside the safekeeper.
 */
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import {
  MemoryTimelineStorage,
  type SafekeeperStorage,
  type TimelineStorage,
} from '../../engine/safekeeper/storage.ts';

/** No message of the conversations has so much WAL: these are the zeros. */
const fillBytesMin = 64 * 1024;

export class LeanStorage implements SafekeeperStorage {
  readonly #timelines = new Map<string, { readonly id: TenantTimelineId; readonly storage: TimelineStorage }>();

  async openTimeline(id: TenantTimelineId): Promise<TimelineStorage | null> {
    return this.peek(id) ?? null;
  }

  async createTimeline(id: TenantTimelineId): Promise<TimelineStorage> {
    const storage = new MemoryTimelineStorage(keyOf(id));
    const { segments } = storage;
    const write = segments.write.bind(segments);
    segments.write = (name, offset, bytes) => (bytes.length < fillBytesMin ? write(name, offset, bytes) : undefined);
    this.#timelines.set(keyOf(id), { id, storage });
    return storage;
  }

  async listTimelines(): Promise<readonly TenantTimelineId[]> {
    return this.ids;
  }

  get ids(): readonly TenantTimelineId[] {
    return [...this.#timelines.values()].map(({ id }) => id);
  }

  peek(id: TenantTimelineId): TimelineStorage | undefined {
    return this.#timelines.get(keyOf(id))?.storage;
  }
}

const keyOf = ({ tenantId, timelineId }: TenantTimelineId): string => `${tenantId}/${timelineId}`;
