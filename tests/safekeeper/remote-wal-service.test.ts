/** The WalService contract over a safekeeper server's WebSockets, its storage on disk. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NodeId } from '../../engine/model/ids.ts';
import { silentLog } from '../../server/process/node-host.ts';
import { connectSafekeeper } from '../../server/safekeeper/connect.ts';
import { startSafekeeper } from '../../server/safekeeper/safekeeper-server.ts';
import { runWalServiceContract } from '../contracts/wal-service.ts';

runWalServiceContract('over WebSockets, on disk', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'pagelite-safekeeper-'));
  const nodeId = 1 as NodeId;
  const host = '127.0.0.1';
  const start = (port: number) =>
    startSafekeeper({ dir, nodeId, listen: { host, port }, http: { host, port: 0 }, log: silentLog });
  let server = await start(0);
  return {
    service: connectSafekeeper({ id: nodeId, host, port: server.ports.listen }),
    async restart() {
      const { listen } = server.ports;
      await server.close();
      server = await start(listen);
    },
    async close() {
      await server.close();
      await rm(dir, { recursive: true });
    },
  };
});
