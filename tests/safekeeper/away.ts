/** A safekeeper that nobody reaches. */
import { PageliteError } from '../../engine/errors.ts';
import type { NodeId } from '../../engine/model/ids.ts';
import type { SafekeeperPeer } from '../../engine/services.ts';

export const away = (nodeId: NodeId): SafekeeperPeer => {
  const error = new PageliteError('unavailable', 'away');
  return {
    nodeId,
    connectProposer: () => {
      throw error;
    },
    // biome-ignore lint/correctness/useYield: it never comes to that
    async *readWal() {
      throw error;
    },
    getStatus: () => Promise.reject(error),
    reportConsistent: () => Promise.reject(error),
    describeTimelines: () => Promise.reject(error),
    introduce: () => Promise.reject(error),
    recall: () => Promise.reject(error),
  };
};
