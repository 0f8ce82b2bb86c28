/** The WalService contract over a Safekeeper in the same thread, its storage in memory. */
import type { NodeId } from '../../engine/model/ids.ts';
import { Safekeeper } from '../../engine/safekeeper/safekeeper.ts';
import { MemorySafekeeperStorage } from '../../engine/safekeeper/storage.ts';
import type { WalService } from '../../engine/services.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { runWalServiceContract } from '../contracts/wal-service.ts';

runWalServiceContract('in process, in memory', async () => {
  const storage = new MemorySafekeeperStorage();
  const start = () => new Safekeeper({ nodeId: 1 as NodeId, storage, log: silentLog });
  let safekeeper = start();
  const service: WalService = {
    nodeId: 1 as NodeId,
    connectProposer: (id) => safekeeper.connectProposer(id),
    readWal: (id, startLsn, signal, term) => safekeeper.readWal(id, startLsn, signal, term),
    getStatus: (id) => safekeeper.getStatus(id),
    reportConsistent: (id, lsn) => safekeeper.reportConsistent(id, lsn),
  };
  return {
    service,
    async restart() {
      await safekeeper.close();
      safekeeper = start();
    },
    close: () => safekeeper.close(),
  };
});
